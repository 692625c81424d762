//! Airflow's own REST API, as any client sees it.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{PATIENCE, wait_for};

pub struct Airflow {
    runtime: tokio::runtime::Runtime,
    http: reqwest::Client,
    url: String,
    access: Access,
}

enum Access {
    /// Airflow 3: a token that a sign-in gave.
    Token(String),
    /// Airflow 2, with its first API.
    Password(String, String),
}

impl Airflow {
    pub fn sign_in(url: &str, user: &str, password: &str) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let http = reqwest::Client::builder()
            .no_proxy()
            .tls_certs_only([])
            .timeout(Duration::from_secs(30))
            // Airflow is restarted between calls now and then.
            .pool_max_idle_per_host(0)
            .build()?;
        let mut airflow = Self {
            runtime,
            http,
            url: url.trim_end_matches('/').to_owned(),
            access: Access::Password(user.to_owned(), password.to_owned()),
        };
        let credentials = json!({"username": user, "password": password});
        // Airflow 2 has no such address.
        if let Ok(answer) = airflow.call(&Method::POST, "/auth/token", Some(&credentials)) {
            let token = answer["access_token"].as_str();
            let token = token.context("Airflow gave no access token")?;
            airflow.access = Access::Token(token.to_owned());
        }
        Ok(airflow)
    }

    /// On SQLite, Airflow answers 500 while something else writes for longer than it waits.
    fn call(&self, method: &Method, path: &str, body: Option<&Value>) -> Result<Value> {
        wait_for("Airflow's database", PATIENCE, || {
            self.ask(method.clone(), path, body)
        })
    }

    /// None where its database was busy.
    fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Option<Value>> {
        self.runtime.block_on(async {
            let request = self.http.request(method, format!("{}{path}", self.url));
            let mut request = match &self.access {
                Access::Token(token) => request.bearer_auth(token),
                Access::Password(user, password) => request.basic_auth(user, Some(password)),
            };
            if let Some(body) = body {
                request = request.json(body);
            }
            let response = request.send().await?;
            let status = response.status();
            let text = response.text().await?;
            if status == StatusCode::INTERNAL_SERVER_ERROR {
                return Ok(None);
            }
            if !status.is_success() {
                bail!("Airflow answered {status} to {path}: {text}");
            }
            Ok(Some(if text.is_empty() {
                Value::Null
            } else {
                serde_json::from_str(&text)?
            }))
        })
    }

    /// A call below the API's root.
    fn api(&self, method: &Method, path: &str, body: Option<&Value>) -> Result<Value> {
        let root = if self.is_airflow_2() {
            "/api/v1"
        } else {
            "/api/v2"
        };
        self.call(method, &format!("{root}{path}"), body)
    }

    /// The status that somebody gets who did not sign in.
    pub fn anonymously(&self, path: &str) -> Result<u16> {
        self.runtime.block_on(async {
            let request = self.http.get(format!("{}{path}", self.url));
            Ok(request.send().await?.status().as_u16())
        })
    }

    pub fn is_airflow_2(&self) -> bool {
        matches!(self.access, Access::Password(..))
    }

    /// Reads. On a busy machine a web server may not answer in time, or end and
    /// be started again by its agent: it is asked again for as long as that takes.
    pub fn get(&self, path: &str) -> Result<Value> {
        let unanswered = |error: &anyhow::Error| error.is::<reqwest::Error>();
        let begun = Instant::now();
        loop {
            let answer = self.api(&Method::GET, path, None);
            if !answer.as_ref().is_err_and(unanswered) || begun.elapsed() > PATIENCE {
                return answer;
            }
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    pub fn post(&self, path: &str, body: &Value) -> Result<Value> {
        self.api(&Method::POST, path, Some(body))
    }

    pub fn patch(&self, path: &str, body: &Value) -> Result<Value> {
        self.api(&Method::PATCH, path, Some(body))
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
        self.api(
            &Method::PATCH,
            &format!("/dags/{dag}"),
            Some(&json!({"is_paused": false})),
        )?;
        let body = if self.is_airflow_2() {
            json!({})
        } else {
            json!({"logical_date": null})
        };
        let run = self.api(&Method::POST, &format!("/dags/{dag}/dagRuns"), Some(&body))?;
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
        wait_for(&format!("run {run} of {dag} to end"), PATIENCE, || {
            let run = self.run(dag, run)?;
            Ok(matches!(run["state"].as_str(), Some("success" | "failed")).then_some(run))
        })
    }

    /// Waits until the run has ended, well, and gives it.
    pub fn wait_for_success(&self, dag: &str, run: &str) -> Result<Value> {
        let ended = self.wait_for_run(dag, run)?;
        if ended["state"] != "success" {
            bail!("{ended:#}\n{}", self.what_went_wrong(dag, run)?);
        }
        Ok(ended)
    }

    /// The run's tasks that did not succeed, each with its log.
    fn what_went_wrong(&self, dag: &str, run: &str) -> Result<String> {
        let tasks = format!("/dags/{dag}/dagRuns/{run}/taskInstances");
        let listed = self.get(&tasks)?;
        let listed = listed["task_instances"].as_array().context("no tasks")?;
        let mut told = String::new();
        for task in listed.iter().filter(|task| task["state"] != "success") {
            let (id, tried) = (task["task_id"].as_str(), &task["try_number"]);
            let id = id.context("the task has no id")?;
            let log = format!("{tasks}/{id}/logs/{tried}?map_index={}", task["map_index"]);
            let log = self
                .get(&log)
                .map_or_else(|error| error.to_string(), |log| log.to_string());
            let _ = writeln!(told, "{id}: {task:#}\n{log}");
        }
        Ok(told)
    }

    /// Has every task of a run executed once more.
    pub fn clear_run(&self, dag: &str, run: &str) -> Result<()> {
        self.api(
            &Method::POST,
            &format!("/dags/{dag}/dagRuns/{run}/clear"),
            Some(&json!({"dry_run": false})),
        )
        .map(drop)
    }

    /// Waits until one of the run's tasks is at work.
    pub fn wait_for_a_running_task(&self, dag: &str, run: &str) -> Result<()> {
        wait_for("a task to run", PATIENCE, || {
            let tasks = self.get(&format!("/dags/{dag}/dagRuns/{run}/taskInstances"))?;
            let tasks = tasks["task_instances"].as_array().context("no tasks")?;
            Ok(tasks
                .iter()
                .any(|task| task["state"] == "running")
                .then_some(()))
        })
    }

    /// What a task returned.
    pub fn returned(&self, dag: &str, run: &str, task: &str) -> Result<Value> {
        let answer = self.get(&format!(
            "/dags/{dag}/dagRuns/{run}/taskInstances/{task}/xcomEntries/return_value"
        ))?;
        Ok(answer["value"].clone())
    }
}
