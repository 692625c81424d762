//! The files of a pipeline: a template for each, filled.

use askama::Template;

use super::model::{Pipeline, Strategy, Tool};
use super::script;

/// What jobs run in, where their tool needs a container: with curl, git and a
/// Python for what the checks import.
const IMAGE: &str = "python:3.12.12-trixie";

/// A file to be written, from the repository's root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PipelineFile {
    pub path: String,
    pub text: String,
}

/// What templates are filled with.
struct Filled<'a> {
    pipeline: &'a Pipeline,
    variables: Vec<(&'static str, String)>,
    image: &'static str,
    check: String,
    deploy: String,
    preview: String,
    close: String,
}

macro_rules! templates {
    ($($name:ident = $path:tt;)*) => {
        $(
            #[derive(Template)]
            #[template(path = $path, escape = "none")]
            struct $name<'a> {
                it: &'a Filled<'a>,
            }
        )*
    };
}

templates! {
    Github = "github.yml";
    Gitlab = "gitlab.yml";
    Circleci = "circleci.yml";
    Jenkins = "jenkins.txt";
    Bitbucket = "bitbucket.yml";
    Azure = "azure.yml";
    Codebuild = "codebuild.yml";
    CodebuildCheck = "codebuild-check.yml";
    Drone = "drone.yml";
}

impl Filled<'_> {
    fn is_multi_branch(&self) -> bool {
        self.pipeline.strategy == Strategy::MultiBranch
    }

    fn builds_image(&self) -> bool {
        self.pipeline.strategy == Strategy::CustomImage
    }

    /// What has the jobs of a pull request's Preview wait for each other.
    fn preview_group(&self) -> String {
        let project = self.project_in_name();
        format!("updraft-preview{project}-${{{{ github.event.number }}}}")
    }

    fn preview_environment(&self) -> String {
        let project = self.project_in_name();
        format!("updraft-preview{project}/$CI_MERGE_REQUEST_IID")
    }

    fn project_in_name(&self) -> String {
        let project = self.pipeline.project.as_ref();
        let project = project.map(|it| format!("-{}", it.as_str().replace('/', "-")));
        project.unwrap_or_default()
    }
}

impl Pipeline {
    /// Its files; more than one where a tool has a file for pull requests.
    pub fn files(&self) -> Result<Vec<PipelineFile>, askama::Error> {
        let it = Filled {
            pipeline: self,
            variables: self.variables(),
            image: IMAGE,
            check: script::check(self),
            deploy: script::deploy(self),
            preview: script::preview(self),
            close: script::close(self),
        };
        let it = &it;
        let file = |path: &str, text: String| PipelineFile {
            path: path.to_owned(),
            text: text.trim_end().to_owned() + "\n",
        };
        Ok(match self.tool {
            Tool::Github => vec![file(&self.workflow(), Github { it }.render()?)],
            Tool::Gitlab => vec![file(".gitlab-ci.yml", Gitlab { it }.render()?)],
            Tool::Circleci => vec![file(".circleci/config.yml", Circleci { it }.render()?)],
            Tool::Jenkins => vec![file("Jenkinsfile", Jenkins { it }.render()?)],
            Tool::Bitbucket => vec![file("bitbucket-pipelines.yml", Bitbucket { it }.render()?)],
            Tool::Azure => vec![file("azure-pipelines.yml", Azure { it }.render()?)],
            Tool::Codebuild => vec![
                file("buildspec.yml", Codebuild { it }.render()?),
                file("buildspec-check.yml", CodebuildCheck { it }.render()?),
            ],
            Tool::Drone => vec![file(".drone.yml", Drone { it }.render()?)],
        })
    }

    /// A repository may have several projects, each with a workflow.
    fn workflow(&self) -> String {
        let name = self
            .project
            .as_ref()
            .map(|it| it.as_str().replace('/', "-"));
        let name = name.map(|name| format!("-{name}")).unwrap_or_default();
        format!(".github/workflows/updraft{name}.yml")
    }

    /// What every job has set.
    pub(super) fn variables(&self) -> Vec<(&'static str, String)> {
        let project = self.project.as_ref();
        let mut variables = vec![
            ("UPDRAFT_SERVER", self.server.to_string()),
            ("UPDRAFT_SHA256", self.checksum.to_string()),
        ];
        variables.extend(project.map(|it| ("UPDRAFT_PROJECT", it.to_string())));
        if self.insecure_http {
            variables.push(("UPDRAFT_INSECURE_HTTP", "true".to_owned()));
        }
        variables
    }
}
