//! Airflow's own REST API: signing in, asking whether it is up, starting a run.
//!
//! Version 2 of the API for Airflow 3, version 1 for Airflow 2.

use std::sync::Arc;
use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Mutex;

/// An Airflow's address and who signs in.
#[derive(Debug, Clone)]
pub struct AirflowRest {
    http: reqwest::Client,
    base: String,
    user: String,
    password: String,
    /// Airflow 2 takes the password with every request.
    basic: bool,
    /// Airflow 3 gives one for it, good for some hours.
    token: Arc<Mutex<Option<String>>>,
}

#[derive(Debug, thiserror::Error)]
pub enum AirflowRestError {
    #[error("Airflow does not answer at {address}")]
    Unreachable {
        address: String,
        source: reqwest::Error,
    },
    #[error("Airflow answered {status} to {what}: {text}")]
    Refused {
        what: String,
        status: StatusCode,
        text: String,
    },
    #[error("Airflow's answer to {what} makes no sense: {why}")]
    Nonsense { what: String, why: String },
    #[error("{0}")]
    TimedOut(String),
}

/// How a DAG run ended, or how far it is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct DagRun {
    #[serde(rename = "dag_run_id")]
    pub id: String,
    pub state: String,
    #[serde(default)]
    pub bundle_version: Option<String>,
}

impl DagRun {
    pub fn is_finished(&self) -> bool {
        matches!(self.state.as_str(), "success" | "failed")
    }
}

impl AirflowRest {
    pub fn new(base: &str, user: &str, password: &str) -> Result<Self, AirflowRestError> {
        let base = base.trim_end_matches('/').to_owned();
        let is_http = base.starts_with("http://");
        let mut http = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(5))
            .timeout(Duration::from_secs(60));
        if is_http {
            // Plain http is for this machine or a trusted network: no
            // certificates to load, no proxy on the way.
            http = http.tls_certs_only([]).no_proxy();
        }
        let http = http
            .build()
            .map_err(|source| AirflowRestError::Unreachable {
                address: base.clone(),
                source,
            })?;
        Ok(Self {
            http,
            base,
            user: user.to_owned(),
            password: password.to_owned(),
            basic: false,
            token: Arc::default(),
        })
    }

    /// The same for Airflow 2.
    #[must_use]
    pub fn version_1(mut self) -> Self {
        self.basic = true;
        self
    }

    /// The same, for whichever Airflow answers there.
    pub(crate) async fn of_its_version(self) -> Result<Self, AirflowRestError> {
        let request = self.http.get(format!("{}/api/v2/version", self.base));
        match self.send("the question for its version", request).await {
            Ok(_) => Ok(self),
            Err(AirflowRestError::Refused { .. } | AirflowRestError::Nonsense { .. }) => {
                Ok(self.version_1())
            }
            Err(error) => Err(error),
        }
    }

    pub fn address(&self) -> &str {
        &self.base
    }

    /// Whether the API server answers at all; needs no sign-in.
    pub async fn is_up(&self) -> bool {
        let path = if self.basic {
            "health"
        } else {
            "api/v2/monitor/health"
        };
        let request = self
            .http
            .get(format!("{}/{path}", self.base))
            .timeout(Duration::from_secs(3));
        request
            .send()
            .await
            .is_ok_and(|response| response.status().is_success())
    }

    /// Whether the API server answers, and every component that has to has said
    /// lately that it works.
    pub(crate) async fn is_healthy(&self) -> bool {
        let (path, parts): (_, &[&str]) = if self.basic {
            ("health", &["metadatabase", "scheduler", "triggerer"])
        } else {
            let parts = &["metadatabase", "scheduler", "triggerer", "dag_processor"];
            ("api/v2/monitor/health", parts)
        };
        let request = self
            .http
            .get(format!("{}/{path}", self.base))
            .timeout(Duration::from_secs(3));
        let Ok(health) = self.send("the question for its health", request).await else {
            return false;
        };
        parts.iter().all(|part| health[part]["status"] == "healthy")
    }

    /// Starts a run of a DAG, taking it off pause first.
    pub async fn trigger(&self, dag: &str) -> Result<DagRun, AirflowRestError> {
        self.call(
            Method::PATCH,
            &format!("dags/{dag}"),
            Some(json!({ "is_paused": false })),
        )
        .await?;
        let body = if self.basic {
            json!({})
        } else {
            json!({ "logical_date": null })
        };
        let run = self
            .call(Method::POST, &format!("dags/{dag}/dagRuns"), Some(body))
            .await?;
        parse("the new run", run)
    }

    pub async fn dag_run(&self, dag: &str, run: &str) -> Result<DagRun, AirflowRestError> {
        parse(
            "the run",
            self.call(Method::GET, &format!("dags/{dag}/dagRuns/{run}"), None)
                .await?,
        )
    }

    /// Starts a run and waits until it has ended, one way or the other.
    pub async fn trigger_and_wait(
        &self,
        dag: &str,
        limit: Duration,
    ) -> Result<DagRun, AirflowRestError> {
        let end = tokio::time::Instant::now() + limit;
        let mut run = self.trigger(dag).await?;
        while !run.is_finished() {
            if tokio::time::Instant::now() > end {
                return Err(AirflowRestError::TimedOut(format!(
                    "the run `{}` of `{dag}` is still {} after {} s",
                    run.id,
                    run.state,
                    limit.as_secs()
                )));
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
            run = self.dag_run(dag, &run.id).await?;
        }
        Ok(run)
    }

    /// The ids of the DAGs that Airflow knows and has not retired.
    pub async fn dag_ids(&self) -> Result<Vec<String>, AirflowRestError> {
        let dags = self.list("dags", "dags").await?;
        Ok(dags
            .iter()
            .filter_map(|dag| Some(dag["dag_id"].as_str()?.to_owned()))
            .collect())
    }

    /// Every DAG, also those that Airflow has retired.
    pub(crate) async fn all_dags(&self) -> Result<Vec<Value>, AirflowRestError> {
        let all = if self.basic {
            "dags?only_active=false"
        } else {
            "dags?exclude_stale=false"
        };
        self.list(all, "dags").await
    }

    /// How long Airflow does not write a DAG again after it wrote it. An Airflow
    /// that does not show its settings is taken to have the default.
    pub(crate) async fn update_interval(&self) -> Duration {
        const DEFAULT: Duration = Duration::from_secs(30);
        let own = self.seconds("core", "min_serialized_dag_update_interval");
        own.await.unwrap_or(DEFAULT)
    }

    /// How often Airflow looks for new files by itself, with what it takes to
    /// notice that it is due.
    pub(crate) async fn listing_interval(&self) -> Duration {
        const DEFAULT: Duration = Duration::from_secs(300);
        const NOTICED: Duration = Duration::from_secs(10);
        let (section, option) = if self.basic {
            ("scheduler", "dag_dir_list_interval")
        } else {
            ("dag_processor", "refresh_interval")
        };
        self.seconds(section, option).await.unwrap_or(DEFAULT) + NOTICED
    }

    /// Whether asking for a file also has Airflow look for new ones.
    pub(crate) fn lists_when_asked_to_parse(&self) -> bool {
        !self.basic
    }

    /// A setting in seconds, where Airflow shows its settings.
    async fn seconds(&self, section: &str, option: &str) -> Option<Duration> {
        let path = if self.basic {
            format!("config?section={section}")
        } else {
            format!("config/section/{section}/option/{option}")
        };
        let answer = self.call(Method::GET, &path, None).await.ok()?;
        let sections = answer["sections"].as_array().into_iter().flatten();
        let mut options =
            sections.flat_map(|section| section["options"].as_array().into_iter().flatten());
        let seconds = match &options.find(|found| found["key"] == option)?["value"] {
            Value::String(text) => text.parse().ok(),
            other => other.as_u64(),
        };
        seconds.map(Duration::from_secs)
    }

    /// Every row of a listing, page by page.
    pub(crate) async fn list(
        &self,
        path: &str,
        rows: &str,
    ) -> Result<Vec<Value>, AirflowRestError> {
        let mut all = Vec::new();
        loop {
            let more = if path.contains('?') { '&' } else { '?' };
            let page = format!("{path}{more}limit=100&offset={}", all.len());
            let page = self.call(Method::GET, &page, None).await?;
            let found = page[rows].as_array().cloned().unwrap_or_default();
            let is_last = found.is_empty();
            all.extend(found);
            let total = usize::try_from(page["total_entries"].as_u64().unwrap_or(0)).unwrap_or(0);
            if is_last || all.len() >= total {
                return Ok(all);
            }
        }
    }

    /// The source of a DAG's file, as Airflow keeps it.
    pub(crate) async fn source(
        &self,
        dag: &str,
        token: Option<&str>,
    ) -> Result<String, AirflowRestError> {
        let of = if self.basic {
            token.unwrap_or_default()
        } else {
            dag
        };
        let answer = self
            .call(Method::GET, &format!("dagSources/{of}"), None)
            .await?;
        Ok(answer["content"].as_str().unwrap_or_default().to_owned())
    }

    /// Has Airflow parse a file ahead of its turn.
    pub(crate) async fn parse_file(&self, token: &str) -> Result<(), AirflowRestError> {
        match self
            .call(Method::PUT, &format!("parseDagFile/{token}"), None)
            .await
        {
            // It is in the queue already.
            Err(AirflowRestError::Refused {
                status: StatusCode::CONFLICT,
                ..
            }) => Ok(()),
            other => other.map(drop),
        }
    }

    /// One request; the path is relative to the API's root.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<Value, AirflowRestError> {
        let version = if self.basic { "v1" } else { "v2" };
        let what = format!("{method} {path}");
        let url = format!("{}/api/{version}/{path}", self.base);
        let mut request = self
            .http
            .request(method, url)
            .header("Accept", "application/json");
        if let Some(body) = body {
            request = request.json(&body);
        }
        if self.basic {
            return self
                .send(&what, request.basic_auth(&self.user, Some(&self.password)))
                .await;
        }
        let mut kept = self.token.lock().await;
        let token = match &*kept {
            Some(token) => token.clone(),
            None => kept.insert(self.sign_in().await?).clone(),
        };
        let again = request.try_clone();
        let answer = self.send(&what, request.bearer_auth(token)).await;
        match (answer, again) {
            // It has expired, or Airflow has another secret since a restart.
            (
                Err(AirflowRestError::Refused {
                    status: StatusCode::UNAUTHORIZED,
                    ..
                }),
                Some(request),
            ) => {
                let token = kept.insert(self.sign_in().await?).clone();
                self.send(&what, request.bearer_auth(token)).await
            }
            (answer, _) => answer,
        }
    }

    async fn sign_in(&self) -> Result<String, AirflowRestError> {
        let credentials = json!({ "username": self.user, "password": self.password });
        let request = self
            .http
            .post(format!("{}/auth/token", self.base))
            .json(&credentials);
        let answer = self.send("the sign-in", request).await?;
        Ok(answer["access_token"]
            .as_str()
            .unwrap_or_default()
            .to_owned())
    }

    async fn send(
        &self,
        what: &str,
        request: reqwest::RequestBuilder,
    ) -> Result<Value, AirflowRestError> {
        let unreachable = |source: reqwest::Error| AirflowRestError::Unreachable {
            address: self.base.clone(),
            source: source.without_url(),
        };
        let response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        if !status.is_success() {
            let text: String = response
                .text()
                .await
                .unwrap_or_default()
                .chars()
                .take(500)
                .collect();
            return Err(AirflowRestError::Refused {
                what: what.to_owned(),
                status,
                text,
            });
        }
        let bytes = response.bytes().await.map_err(unreachable)?;
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&bytes).map_err(|error| AirflowRestError::Nonsense {
            what: what.to_owned(),
            why: error.to_string(),
        })
    }
}

fn parse<T: serde::de::DeserializeOwned>(what: &str, value: Value) -> Result<T, AirflowRestError> {
    serde_json::from_value(value).map_err(|error| AirflowRestError::Nonsense {
        what: what.to_owned(),
        why: error.to_string(),
    })
}
