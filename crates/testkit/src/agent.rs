//! An agent that says what a test wants it to say.

use std::time::Duration;

use updraft_api::Client;
use updraft_api::agent::{DagIdsReport, Problem, ProofReport, Report, ReportAnswer, Wanted};
use updraft_model::{
    AgentId, BundleDags, DagChanges, DagIds, Digest, ImportError, Proof, ProofOutcome,
    ProofTimings, Release,
};

/// Talks to a real control plane as an agent does, without an Airflow.
pub struct TestAgent {
    client: Client,
    pub report: Report,
    pub wanted: Option<Wanted>,
}

impl TestAgent {
    pub fn new(client: &Client, host: &str) -> Self {
        Self::again(client, host, AgentId::new())
    }

    /// One that was there before, after a restart of either side.
    pub fn again(client: &Client, host: &str, agent: AgentId) -> Self {
        Self {
            client: client.as_agent(agent),
            wanted: None,
            report: Report {
                agent,
                host: host.into(),
                version: updraft_api::VERSION.into(),
                generation: 0,
                staged: None,
                serving: None,
                proof: None,
                activity: None,
                problem: None,
                isolation: "as the agent's user".into(),
                platform: None,
                airflow: None,
                dags: None,
                import_errors: vec![],
                names: None,
                dag_ids: None,
                runs: None,
                preview_places: 0,
            },
        }
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Asks what is wanted; true when that is news.
    pub async fn poll(&mut self, wait: Duration) -> bool {
        let wanted = self.client.wanted(self.report.generation, wait).await;
        match wanted.expect("an answer") {
            Some(wanted) => {
                self.report.generation = wanted.generation;
                self.wanted = Some(wanted);
                true
            }
            None => false,
        }
    }

    pub async fn send(&self) -> ReportAnswer {
        self.client.report(&self.report).await.expect("an answer")
    }

    /// The Release that it was told to make true.
    pub fn target(&self) -> Release {
        let target = self
            .wanted
            .as_ref()
            .and_then(|wanted| wanted.target.clone());
        target.expect("there is a target").release
    }

    fn attempt(&self) -> u32 {
        let target = self
            .wanted
            .as_ref()
            .and_then(|wanted| wanted.target.as_ref());
        target.expect("there is a target").attempt
    }

    pub async fn stage(&mut self) -> ReportAnswer {
        self.report.staged = Some(self.target().id);
        self.send().await
    }

    /// Says that it serves the target.
    pub async fn switch(&mut self) -> ReportAnswer {
        self.report.staged = Some(self.target().id);
        self.report.serving = Some(self.target().id);
        self.send().await
    }

    /// What there is to say about the target with this outcome.
    pub fn proof(&self, outcome: ProofOutcome) -> ProofReport {
        ProofReport {
            release: self.target().id,
            attempt: self.attempt(),
            switched_at: chrono::Utc::now(),
            proof: proof(outcome),
        }
    }

    /// Says what Airflow answered about the target.
    pub async fn prove(&mut self, outcome: ProofOutcome) -> ReportAnswer {
        let proof = self.proof(outcome);
        self.prove_as(proof).await
    }

    /// Says this of the target.
    pub async fn prove_as(&mut self, proof: ProofReport) -> ReportAnswer {
        self.report.staged = Some(self.target().id);
        self.report.serving = Some(self.target().id);
        self.report.proof = Some(proof);
        self.send().await
    }

    /// Reads what is wanted and makes it true, as an agent that nothing hinders.
    pub async fn converge(&mut self) {
        self.poll(Duration::ZERO).await;
        self.prove(ProofOutcome::Proven).await;
        self.poll(Duration::ZERO).await;
    }

    /// What there is to tell of the ids that the target's bundles have.
    pub fn dag_ids(&self, bundles: &[(&str, &[&str])]) -> DagIdsReport {
        dag_ids(self.report.agent, &self.target(), bundles)
    }

    /// Says what stands for these ids, and tells them when they lack.
    pub async fn tell_dag_ids(&mut self, told: DagIdsReport) -> bool {
        self.report.dag_ids = Some(told.digest);
        let lack = self.send().await.lacks_dag_ids;
        if lack {
            let told = self.client.report_dag_ids(&told).await;
            told.expect("they are taken");
        }
        lack
    }

    pub async fn stall(&mut self, message: &str) -> ReportAnswer {
        self.report.problem = Some(Problem {
            message: message.into(),
            stalled: true,
        });
        self.send().await
    }
}

/// The ids that bundles of a Release have.
pub fn dag_ids(agent: AgentId, of: &Release, bundles: &[(&str, &[&str])]) -> DagIdsReport {
    let told = bundles.iter().map(|(bundle, ids)| {
        let ids = ids.iter().map(|id| id.parse().expect("an id")).collect();
        let bundle = bundle.parse().expect("a bundle");
        let version = of.bundles[&bundle].digest;
        (bundle, BundleDags { version, ids })
    });
    let bundles = DagIds(told.collect());
    DagIdsReport {
        agent,
        digest: Digest::of(&serde_json::to_vec(&bundles).expect("plain data")),
        bundles,
    }
}

/// A proof with this outcome.
pub fn proof(outcome: ProofOutcome) -> Proof {
    let import_errors = match outcome {
        ProofOutcome::ImportErrors => vec![ImportError {
            file: "broken.py".into(),
            traceback: "ModuleNotFoundError: No module named 'nothing'".into(),
            new: true,
        }],
        ProofOutcome::Proven | ProofOutcome::TimedOut => vec![],
    };
    Proof {
        outcome,
        reason: String::new(),
        parsed: 1,
        affected: 1,
        files: 1,
        dags: DagChanges {
            added: vec!["a_dag".into()],
            total: 1,
            ..DagChanges::default()
        },
        import_errors,
        silent: vec![],
        seen: "nothing".into(),
        not_seen: "broken.py".into(),
        timings_ms: ProofTimings::default(),
    }
}
