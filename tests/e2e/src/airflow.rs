//! Airflow's own REST API, as any client sees it.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use reqwest::Method;
use serde_json::{Value, json};

use crate::wait_for;

pub struct Airflow {
    runtime: tokio::runtime::Runtime,
    http: reqwest::Client,
    url: String,
    token: String,
}

impl Airflow {
    /// Signs in to Airflow 3.
    pub fn sign_in(url: &str, user: &str, password: &str) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let http = reqwest::Client::builder()
            .no_proxy()
            .tls_certs_only([])
            .timeout(Duration::from_secs(30))
            .build()?;
        let mut airflow = Self {
            runtime,
            http,
            url: url.trim_end_matches('/').to_owned(),
            token: String::new(),
        };
        let answer = airflow.call(
            Method::POST,
            "/auth/token",
            Some(json!({"username": user, "password": password})),
        )?;
        airflow.token = answer["access_token"]
            .as_str()
            .context("Airflow gave no access token")?
            .to_owned();
        Ok(airflow)
    }

    fn call(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value> {
        self.runtime.block_on(async {
            let mut request = self
                .http
                .request(method, format!("{}{path}", self.url))
                .bearer_auth(&self.token);
            if let Some(body) = body {
                request = request.json(&body);
            }
            let response = request.send().await?;
            let status = response.status();
            let text = response.text().await?;
            if !status.is_success() {
                bail!("Airflow answered {status} to {path}: {text}");
            }
            Ok(if text.is_empty() {
                Value::Null
            } else {
                serde_json::from_str(&text)?
            })
        })
    }

    pub fn get(&self, path: &str) -> Result<Value> {
        self.call(Method::GET, &format!("/api/v2{path}"), None)
    }

    /// The task ids of a DAG's newest version.
    pub fn tasks(&self, dag: &str) -> Result<Vec<String>> {
        let answer = self.get(&format!("/dags/{dag}/tasks"))?;
        let tasks = answer["tasks"]
            .as_array()
            .context("no tasks in the answer")?;
        let mut ids: Vec<_> = tasks
            .iter()
            .filter_map(|task| task["task_id"].as_str())
            .map(str::to_owned)
            .collect();
        ids.sort();
        Ok(ids)
    }

    /// The ids of all DAGs that are not stale.
    pub fn dags(&self) -> Result<Vec<String>> {
        let answer = self.get("/dags?limit=1000")?;
        let dags = answer["dags"].as_array().context("no DAGs in the answer")?;
        Ok(dags
            .iter()
            .filter_map(|dag| dag["dag_id"].as_str())
            .map(str::to_owned)
            .collect())
    }

    /// Starts a run and gives its id.
    pub fn trigger(&self, dag: &str) -> Result<String> {
        self.call(
            Method::PATCH,
            &format!("/api/v2/dags/{dag}"),
            Some(json!({"is_paused": false})),
        )?;
        let run = self.call(
            Method::POST,
            &format!("/api/v2/dags/{dag}/dagRuns"),
            Some(json!({"logical_date": null})),
        )?;
        Ok(run["dag_run_id"]
            .as_str()
            .context("the run has no id")?
            .to_owned())
    }

    pub fn run(&self, dag: &str, run: &str) -> Result<Value> {
        self.get(&format!("/dags/{dag}/dagRuns/{run}"))
    }

    /// Waits until the run has ended, and gives it.
    pub fn wait_for_run(&self, dag: &str, run: &str) -> Result<Value> {
        wait_for(
            &format!("run {run} of {dag} to end"),
            Duration::from_secs(120),
            || {
                let run = self.run(dag, run)?;
                Ok(matches!(run["state"].as_str(), Some("success" | "failed")).then_some(run))
            },
        )
    }

    /// What a task returned.
    pub fn returned(&self, dag: &str, run: &str, task: &str) -> Result<Value> {
        let answer = self.get(&format!(
            "/dags/{dag}/dagRuns/{run}/taskInstances/{task}/xcomEntries/return_value"
        ))?;
        Ok(answer["value"].clone())
    }
}
