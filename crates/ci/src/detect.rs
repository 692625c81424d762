//! Which pipeline runs us, from the variables that its tool sets.
//!
//! Each function is one tool's documentation, in its order: how to recognise
//! it, then what was pushed, then the run. What is said of a *branch* has to
//! be right, since it decides where a deploy goes: a pull request from `main`
//! of somebody's fork is no push to `main`.

use std::path::Path;

use serde_json::Value;
use updraft_model::{CiProvider, CiRun, PullRequest};

/// The longest value that is taken for a name.
const MOST_BYTES: usize = 2000;

/// The largest event file that is read; GitHub's own limit is 25 MB.
const MOST_EVENT_BYTES: u64 = 26_000_000;

/// Where variables come from: the process, or a test.
pub trait Environment {
    /// A variable's value; an empty one is none, as tools set what does not apply.
    fn get(&self, name: &str) -> Option<String>;
}

impl<F: Fn(&str) -> Option<String>> Environment for F {
    fn get(&self, name: &str) -> Option<String> {
        self(name).filter(|value| !value.is_empty() && value.len() <= MOST_BYTES)
    }
}

/// The run that we are in; none on somebody's own machine.
pub fn detect(env: &impl Environment) -> Option<CiRun> {
    let is = |name: &str| {
        env.get(name)
            .is_some_and(|it| it.eq_ignore_ascii_case("true"))
    };
    let run = if is("GITHUB_ACTIONS") {
        github(env)
    } else if is("GITLAB_CI") {
        gitlab(env)
    } else if is("CIRCLECI") {
        circleci(env)
    } else if is("BUILDKITE") {
        buildkite(env)
    } else if is("DRONE") {
        drone(env)
    } else if is("TF_BUILD") {
        azure(env)
    } else if env.get("BITBUCKET_BUILD_NUMBER").is_some() {
        bitbucket(env)
    } else if env.get("CODEBUILD_BUILD_ID").is_some() {
        codebuild(env)
    } else if env.get("JENKINS_URL").is_some() || env.get("HUDSON_URL").is_some() {
        jenkins(env)
    } else if is("CI") {
        CiRun::default()
    } else {
        return None;
    };
    Some(run)
}

/// <https://docs.github.com/en/actions/reference/workflows-and-actions/variables>
fn github(env: &impl Environment) -> CiRun {
    let event = env.get("GITHUB_EVENT_PATH").and_then(|it| event(&it));
    let repository = env.get("GITHUB_REPOSITORY");
    let name = env.get("GITHUB_REF_NAME");
    let pull_request = github_pull_request(env, event.as_ref(), repository.as_deref());
    let is_queue = env.get("GITHUB_EVENT_NAME").as_deref() == Some("merge_group");
    let kind = env.get("GITHUB_REF_TYPE");
    let of = |wanted: &str| {
        let is_push = pull_request.is_none() && !is_queue && kind.as_deref() == Some(wanted);
        name.clone().filter(|_| is_push)
    };
    let run_url = env.get("GITHUB_RUN_ID").and_then(|id| {
        let server = env.get("GITHUB_SERVER_URL")?;
        let attempt = env.get("GITHUB_RUN_ATTEMPT").filter(|it| it != "1");
        let attempt = attempt
            .map(|it| format!("/attempts/{it}"))
            .unwrap_or_default();
        Some(format!(
            "{server}/{}/actions/runs/{id}{attempt}",
            repository.as_deref()?
        ))
    });
    CiRun {
        provider: CiProvider::Github,
        branch: of("branch"),
        tag: of("tag"),
        commit: env.get("GITHUB_SHA"),
        pull_request,
        run_url,
        run_number: number(env.get("GITHUB_RUN_NUMBER")),
        workflow: env.get("GITHUB_WORKFLOW"),
        actor: env.get("GITHUB_ACTOR"),
        repository,
    }
}

/// Workflows on `pull_request_target`, on another workflow's end and on a
/// comment run with the name of the default branch, for a pull request.
fn github_pull_request(
    env: &impl Environment,
    event: Option<&Value>,
    repository: Option<&str>,
) -> Option<PullRequest> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let name = env.get("GITHUB_EVENT_NAME").unwrap_or_default();
    match name.as_str() {
        "workflow_run" => {
            let run = &event?["workflow_run"];
            let is_request = run["event"]
                .as_str()
                .is_some_and(|it| it.starts_with("pull_request"));
            is_request.then(|| PullRequest {
                number: run["pull_requests"][0]["number"].as_u64().unwrap_or(0),
                into: None,
                from: text(&run["head_branch"]),
                is_fork: run["head_repository"]["full_name"].as_str() != repository,
            })
        }
        "issue_comment" => {
            let issue = &event?["issue"];
            issue["pull_request"].is_object().then(|| PullRequest {
                number: issue["number"].as_u64().unwrap_or(0),
                into: None,
                from: None,
                // The comment does not say whose branch it is.
                is_fork: true,
            })
        }
        _ if name.starts_with("pull_request") => {
            let request = event.map(|it| &it["pull_request"]);
            let from_reference = || {
                let reference = env.get("GITHUB_REF")?;
                let rest = reference.strip_prefix("refs/pull/")?;
                rest.split('/').next()?.parse().ok()
            };
            let head = request.and_then(|it| it["head"]["repo"]["full_name"].as_str());
            Some(PullRequest {
                number: request
                    .and_then(|it| it["number"].as_u64())
                    .or_else(from_reference)
                    .unwrap_or(0),
                into: env.get("GITHUB_BASE_REF"),
                from: env.get("GITHUB_HEAD_REF"),
                // A fork that was removed has no repository any more.
                is_fork: head.is_none() || head != repository,
            })
        }
        _ => None,
    }
}

fn event(path: &str) -> Option<Value> {
    let path = Path::new(path);
    let is_small = path.metadata().ok()?.len() <= MOST_EVENT_BYTES;
    let bytes = is_small.then(|| std::fs::read(path).ok())??;
    serde_json::from_slice(&bytes).ok()
}

/// <https://docs.gitlab.com/ci/variables/predefined_variables/>
fn gitlab(env: &impl Environment) -> CiRun {
    let request = number(env.get("CI_MERGE_REQUEST_IID")).map(|number| PullRequest {
        number,
        into: env.get("CI_MERGE_REQUEST_TARGET_BRANCH_NAME"),
        from: env.get("CI_MERGE_REQUEST_SOURCE_BRANCH_NAME"),
        is_fork: env.get("CI_MERGE_REQUEST_SOURCE_PROJECT_ID")
            != env.get("CI_MERGE_REQUEST_PROJECT_ID"),
    });
    let external = || {
        let number = number(env.get("CI_EXTERNAL_PULL_REQUEST_IID"))?;
        Some(PullRequest {
            number,
            into: env.get("CI_EXTERNAL_PULL_REQUEST_TARGET_BRANCH_NAME"),
            from: env.get("CI_EXTERNAL_PULL_REQUEST_SOURCE_BRANCH_NAME"),
            is_fork: env.get("CI_EXTERNAL_PULL_REQUEST_SOURCE_REPOSITORY")
                != env.get("CI_EXTERNAL_PULL_REQUEST_TARGET_REPOSITORY"),
        })
    };
    let pull_request = request.or_else(external);
    let is_push = pull_request.is_none();
    CiRun {
        provider: CiProvider::Gitlab,
        repository: env.get("CI_PROJECT_PATH"),
        branch: env.get("CI_COMMIT_BRANCH").filter(|_| is_push),
        tag: env.get("CI_COMMIT_TAG").filter(|_| is_push),
        commit: env.get("CI_COMMIT_SHA"),
        pull_request,
        run_url: env.get("CI_JOB_URL").or_else(|| env.get("CI_PIPELINE_URL")),
        run_number: number(env.get("CI_PIPELINE_IID")),
        // A project has one pipeline.
        workflow: None,
        actor: env.get("GITLAB_USER_LOGIN"),
    }
}

/// <https://circleci.com/docs/reference/variables/>
///
/// It builds branches only, and says beside that whether a pull request is open
/// for one. A fork's branch is called `pull/N`.
fn circleci(env: &impl Environment) -> CiRun {
    let branch = env.get("CIRCLE_BRANCH");
    let of_fork = branch.as_deref().and_then(|it| it.strip_prefix("pull/"));
    let is_fork = of_fork.is_some() || env.get("CIRCLE_PR_USERNAME").is_some();
    let at_end = |url: String| url.rsplit('/').next().map(str::to_owned);
    let request = of_fork
        .map(str::to_owned)
        .or_else(|| env.get("CIRCLE_PR_NUMBER"))
        .or_else(|| env.get("CIRCLE_PULL_REQUEST").and_then(at_end));
    let pull_request = number(request).map(|number| PullRequest {
        number,
        into: None,
        from: branch.clone().filter(|_| of_fork.is_none()),
        is_fork,
    });
    let owner = env.get("CIRCLE_PROJECT_USERNAME");
    let name = env.get("CIRCLE_PROJECT_REPONAME");
    CiRun {
        provider: CiProvider::Circleci,
        repository: owner
            .zip(name)
            .map(|(owner, name)| format!("{owner}/{name}")),
        branch: branch.filter(|_| !is_fork),
        tag: env.get("CIRCLE_TAG"),
        commit: env.get("CIRCLE_SHA1"),
        pull_request,
        run_url: env.get("CIRCLE_BUILD_URL"),
        run_number: number(env.get("CIRCLE_BUILD_NUM")),
        workflow: env.get("CIRCLE_JOB"),
        actor: env.get("CIRCLE_USERNAME"),
    }
}

/// <https://www.jenkins.io/doc/book/pipeline/multibranch/> and the list at
/// `/env-vars.html` of each Jenkins.
fn jenkins(env: &impl Environment) -> CiRun {
    let pull_request = number(env.get("CHANGE_ID")).map(|number| PullRequest {
        number,
        into: env.get("CHANGE_TARGET"),
        from: env.get("CHANGE_BRANCH"),
        is_fork: env.get("CHANGE_FORK").is_some(),
    });
    let tag = env.get("TAG_NAME");
    // Outside of a multibranch job only the git plugin says it, with the remote.
    let of_git = || {
        let branch = env.get("GIT_BRANCH")?;
        let branch = branch.strip_prefix("origin/").unwrap_or(&branch);
        (branch != "detached").then(|| branch.to_owned())
    };
    let branch = env.get("BRANCH_NAME").or_else(of_git);
    let is_branch = pull_request.is_none() && tag.is_none();
    CiRun {
        provider: CiProvider::Jenkins,
        repository: env.get("GIT_URL").and_then(|url| repository_of(&url)),
        branch: branch.filter(|_| is_branch),
        tag: tag.filter(|_| pull_request.is_none()),
        commit: env.get("GIT_COMMIT"),
        pull_request,
        run_url: env.get("BUILD_URL"),
        run_number: number(env.get("BUILD_NUMBER")),
        workflow: env.get("JOB_NAME"),
        actor: env
            .get("BUILD_USER_ID")
            .or_else(|| env.get("CHANGE_AUTHOR")),
    }
}

/// <https://support.atlassian.com/bitbucket-cloud/docs/variables-and-secrets/>
fn bitbucket(env: &impl Environment) -> CiRun {
    let repository = env.get("BITBUCKET_REPO_FULL_NAME");
    let build = env.get("BITBUCKET_BUILD_NUMBER");
    let branch = env.get("BITBUCKET_BRANCH");
    // Forks run their own pipelines, not ours.
    let pull_request = number(env.get("BITBUCKET_PR_ID")).map(|number| PullRequest {
        number,
        into: env.get("BITBUCKET_PR_DESTINATION_BRANCH"),
        from: branch.clone(),
        is_fork: false,
    });
    let is_push = pull_request.is_none();
    let run_url = repository.as_deref().zip(build.as_deref());
    CiRun {
        provider: CiProvider::Bitbucket,
        branch: branch.filter(|_| is_push),
        tag: env.get("BITBUCKET_TAG").filter(|_| is_push),
        commit: env.get("BITBUCKET_COMMIT"),
        pull_request,
        run_url: run_url
            .map(|(name, build)| format!("https://bitbucket.org/{name}/pipelines/results/{build}")),
        run_number: number(build),
        // A repository has one file of pipelines, which count together.
        workflow: None,
        actor: env.get("BITBUCKET_STEP_TRIGGERER_UUID"),
        repository,
    }
}

/// <https://learn.microsoft.com/en-us/azure/devops/pipelines/build/variables>
fn azure(env: &impl Environment) -> CiRun {
    let reference = env.get("BUILD_SOURCEBRANCH").unwrap_or_default();
    let short = |name: String| {
        let short = name.strip_prefix("refs/heads/").map(str::to_owned);
        short.unwrap_or(name)
    };
    let request = number(env.get("SYSTEM_PULLREQUEST_PULLREQUESTNUMBER"))
        .or_else(|| number(env.get("SYSTEM_PULLREQUEST_PULLREQUESTID")));
    let pull_request = request.map(|number| PullRequest {
        number,
        into: env.get("SYSTEM_PULLREQUEST_TARGETBRANCH").map(short),
        from: env.get("SYSTEM_PULLREQUEST_SOURCEBRANCH").map(short),
        is_fork: env
            .get("SYSTEM_PULLREQUEST_ISFORK")
            .is_some_and(|it| it.eq_ignore_ascii_case("true")),
    });
    let is_push = pull_request.is_none();
    let of = |prefix: &str| {
        let name = reference.strip_prefix(prefix).filter(|_| is_push);
        name.map(str::to_owned)
    };
    let run_url = env.get("BUILD_BUILDID").and_then(|id| {
        let collection = env.get("SYSTEM_COLLECTIONURI")?;
        let project = env.get("SYSTEM_TEAMPROJECT")?.replace(' ', "%20");
        Some(format!("{collection}{project}/_build/results?buildId={id}"))
    });
    CiRun {
        provider: CiProvider::Azure,
        repository: env.get("BUILD_REPOSITORY_NAME"),
        branch: of("refs/heads/"),
        tag: of("refs/tags/"),
        commit: env.get("BUILD_SOURCEVERSION"),
        pull_request,
        run_url,
        run_number: number(env.get("BUILD_BUILDID")),
        workflow: env.get("BUILD_DEFINITIONNAME"),
        actor: env.get("BUILD_REQUESTEDFOR"),
    }
}

/// <https://docs.aws.amazon.com/codebuild/latest/userguide/build-env-ref-env-vars.html>
fn codebuild(env: &impl Environment) -> CiRun {
    let trigger = env
        .get("CODEBUILD_WEBHOOK_TRIGGER")
        .or_else(|| env.get("CODEBUILD_SOURCE_VERSION"))
        .unwrap_or_default();
    let short = |name: &str| {
        let name = env.get(name)?;
        Some(name.strip_prefix("refs/heads/").unwrap_or(&name).to_owned())
    };
    let pull_request = trigger.strip_prefix("pr/").map(|number| PullRequest {
        number: number.parse().unwrap_or(0),
        into: short("CODEBUILD_WEBHOOK_BASE_REF"),
        from: short("CODEBUILD_WEBHOOK_HEAD_REF"),
        // It is not said, and its webhooks fire for forks as well.
        is_fork: true,
    });
    let of = |short: &str, long: &str| {
        let name = trigger
            .strip_prefix(short)
            .or_else(|| trigger.strip_prefix(long));
        name.map(str::to_owned)
    };
    let repository = env.get("CODEBUILD_SOURCE_REPO_URL");
    CiRun {
        provider: CiProvider::Codebuild,
        repository: repository.and_then(|url| repository_of(&url)),
        branch: of("branch/", "refs/heads/"),
        tag: of("tag/", "refs/tags/"),
        commit: env.get("CODEBUILD_RESOLVED_SOURCE_VERSION"),
        pull_request,
        run_url: env.get("CODEBUILD_BUILD_URL"),
        run_number: number(env.get("CODEBUILD_BUILD_NUMBER")),
        workflow: env
            .get("CODEBUILD_BUILD_ID")
            .and_then(|id| id.split(':').next().map(str::to_owned)),
        actor: env
            .get("CODEBUILD_WEBHOOK_ACTOR_ACCOUNT_ID")
            .or_else(|| env.get("CODEBUILD_INITIATOR")),
    }
}

/// <https://docs.drone.io/pipeline/environment/reference/>
fn drone(env: &impl Environment) -> CiRun {
    let repository = env.get("DRONE_REPO");
    let pull_request = number(env.get("DRONE_PULL_REQUEST")).map(|number| PullRequest {
        number,
        into: env.get("DRONE_TARGET_BRANCH"),
        from: env.get("DRONE_SOURCE_BRANCH"),
        // It is not said.
        is_fork: true,
    });
    let tag = env.get("DRONE_TAG");
    // For a pull request it is the branch that would be changed.
    let is_push = pull_request.is_none() && tag.is_none();
    CiRun {
        provider: CiProvider::Drone,
        branch: env.get("DRONE_BRANCH").filter(|_| is_push),
        tag: tag.filter(|_| pull_request.is_none()),
        commit: env
            .get("DRONE_COMMIT_SHA")
            .or_else(|| env.get("DRONE_COMMIT")),
        pull_request,
        run_url: env.get("DRONE_BUILD_LINK"),
        run_number: number(env.get("DRONE_BUILD_NUMBER")),
        workflow: None,
        actor: env
            .get("DRONE_BUILD_TRIGGER")
            .or_else(|| env.get("DRONE_COMMIT_AUTHOR")),
        repository,
    }
}

/// <https://buildkite.com/docs/pipelines/configure/environment-variables>
///
/// It builds branches only, as [`circleci`]; a fork's branch may be called `main`.
fn buildkite(env: &impl Environment) -> CiRun {
    let branch = env.get("BUILDKITE_BRANCH");
    let ours = env.get("BUILDKITE_REPO");
    let theirs = env.get("BUILDKITE_PULL_REQUEST_REPO");
    let name = |url: &Option<String>| url.as_deref().and_then(repository_of);
    let pull_request = number(env.get("BUILDKITE_PULL_REQUEST")).map(|number| PullRequest {
        number,
        into: env.get("BUILDKITE_PULL_REQUEST_BASE_BRANCH"),
        from: branch.clone(),
        is_fork: theirs.is_some() && name(&theirs) != name(&ours),
    });
    let is_fork = pull_request.as_ref().is_some_and(|it| it.is_fork);
    let is_queue = env.get("BUILDKITE_MERGE_QUEUE_BASE_BRANCH").is_some();
    CiRun {
        provider: CiProvider::Buildkite,
        repository: name(&ours),
        branch: branch.filter(|_| !is_fork && !is_queue),
        tag: env.get("BUILDKITE_TAG"),
        commit: env.get("BUILDKITE_COMMIT").filter(|it| it != "HEAD"),
        pull_request,
        run_url: env.get("BUILDKITE_BUILD_URL"),
        run_number: number(env.get("BUILDKITE_BUILD_NUMBER")),
        workflow: env.get("BUILDKITE_PIPELINE_SLUG"),
        actor: env.get("BUILDKITE_BUILD_CREATOR"),
    }
}

fn number(text: Option<String>) -> Option<u64> {
    text?.parse().ok()
}

/// `acme/sales` of an address that git takes.
pub(crate) fn repository_of(url: &str) -> Option<String> {
    let path = match url.split_once("://") {
        Some((_, rest)) => rest.split_once('/')?.1,
        None => url.split_once(':')?.1,
    };
    let path = path.trim_matches('/');
    let path = path.strip_suffix(".git").unwrap_or(path);
    (!path.is_empty()).then(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is found, from variables as `NAME=value`.
    fn run(variables: &str) -> CiRun {
        let env = |name: &str| {
            let given = variables.split(' ').find_map(|it| it.strip_prefix(name));
            given.and_then(|it| it.strip_prefix('=')).map(str::to_owned)
        };
        detect(&env).expect("a pipeline")
    }

    /// Branch, tag, pull request and whether that is a fork's.
    fn pushed(run: &CiRun) -> (Option<&str>, Option<&str>, Option<(u64, bool)>) {
        let request = run.pull_request.as_ref();
        (
            run.branch.as_deref(),
            run.tag.as_deref(),
            request.map(|it| (it.number, it.is_fork)),
        )
    }

    #[test]
    fn nothing_is_said_of_somebodys_own_machine() {
        let env = |name: &str| (name == "CI").then(String::new);
        assert_eq!(detect(&env), None);
        assert_eq!(run("CI=true"), CiRun::default());
    }

    #[test]
    fn a_push_is_its_branch() {
        let pushes: [(&str, CiProvider); 9] = [
            (
                "GITHUB_ACTIONS=true GITHUB_REF_TYPE=branch GITHUB_REF_NAME=main GITHUB_REPOSITORY=acme/sales",
                CiProvider::Github,
            ),
            (
                "GITLAB_CI=true CI_COMMIT_BRANCH=main CI_PROJECT_PATH=acme/sales",
                CiProvider::Gitlab,
            ),
            (
                "CIRCLECI=true CIRCLE_BRANCH=main CIRCLE_PROJECT_USERNAME=acme CIRCLE_PROJECT_REPONAME=sales",
                CiProvider::Circleci,
            ),
            (
                "JENKINS_URL=http://ci/ BRANCH_NAME=main GIT_URL=git@example.com:acme/sales.git",
                CiProvider::Jenkins,
            ),
            (
                "BITBUCKET_BUILD_NUMBER=1 BITBUCKET_BRANCH=main BITBUCKET_REPO_FULL_NAME=acme/sales",
                CiProvider::Bitbucket,
            ),
            (
                "TF_BUILD=True BUILD_SOURCEBRANCH=refs/heads/main BUILD_REPOSITORY_NAME=acme/sales",
                CiProvider::Azure,
            ),
            (
                "CODEBUILD_BUILD_ID=sales:1 CODEBUILD_WEBHOOK_TRIGGER=branch/main CODEBUILD_SOURCE_REPO_URL=https://example.com/acme/sales.git",
                CiProvider::Codebuild,
            ),
            (
                "DRONE=true DRONE_BRANCH=main DRONE_REPO=acme/sales",
                CiProvider::Drone,
            ),
            (
                "BUILDKITE=true BUILDKITE_BRANCH=main BUILDKITE_PULL_REQUEST=false BUILDKITE_REPO=ssh://git@example.com/acme/sales",
                CiProvider::Buildkite,
            ),
        ];
        for (variables, provider) in pushes {
            let run = run(variables);
            assert_eq!(run.provider, provider);
            assert_eq!(pushed(&run), (Some("main"), None, None), "{provider}");
            assert_eq!(run.repository.as_deref(), Some("acme/sales"), "{provider}");
        }
    }

    #[test]
    fn a_tag_is_no_branch() {
        let tags: [&str; 9] = [
            "GITHUB_ACTIONS=true GITHUB_REF_TYPE=tag GITHUB_REF_NAME=v1",
            "GITLAB_CI=true CI_COMMIT_TAG=v1",
            "CIRCLECI=true CIRCLE_TAG=v1",
            "JENKINS_URL=http://ci/ BRANCH_NAME=v1 TAG_NAME=v1",
            "BITBUCKET_BUILD_NUMBER=1 BITBUCKET_TAG=v1",
            "TF_BUILD=True BUILD_SOURCEBRANCH=refs/tags/v1",
            "CODEBUILD_BUILD_ID=sales:1 CODEBUILD_WEBHOOK_TRIGGER=tag/v1",
            "DRONE=true DRONE_BRANCH=main DRONE_TAG=v1",
            "BUILDKITE=true BUILDKITE_TAG=v1",
        ];
        for variables in tags {
            assert_eq!(
                pushed(&run(variables)),
                (None, Some("v1"), None),
                "{variables:?}"
            );
        }
    }

    #[test]
    fn a_pull_request_from_main_is_no_push_to_main() {
        let requests: [(&str, bool); 12] = [
            (
                "GITLAB_CI=true CI_MERGE_REQUEST_IID=7 CI_MERGE_REQUEST_PROJECT_ID=1 CI_MERGE_REQUEST_SOURCE_PROJECT_ID=1 CI_COMMIT_BRANCH=main",
                false,
            ),
            (
                "GITLAB_CI=true CI_MERGE_REQUEST_IID=7 CI_MERGE_REQUEST_PROJECT_ID=1 CI_MERGE_REQUEST_SOURCE_PROJECT_ID=2",
                true,
            ),
            ("CIRCLECI=true CIRCLE_BRANCH=pull/7", true),
            (
                "JENKINS_URL=http://ci/ BRANCH_NAME=PR-7 CHANGE_ID=7 CHANGE_BRANCH=main GIT_BRANCH=main",
                false,
            ),
            (
                "JENKINS_URL=http://ci/ BRANCH_NAME=PR-7 CHANGE_ID=7 CHANGE_FORK=eve",
                true,
            ),
            (
                "BITBUCKET_BUILD_NUMBER=1 BITBUCKET_BRANCH=main BITBUCKET_PR_ID=7",
                false,
            ),
            (
                "TF_BUILD=True BUILD_SOURCEBRANCH=refs/pull/7/merge SYSTEM_PULLREQUEST_PULLREQUESTID=7 SYSTEM_PULLREQUEST_ISFORK=False",
                false,
            ),
            (
                "TF_BUILD=True BUILD_SOURCEBRANCH=refs/pull/7/merge SYSTEM_PULLREQUEST_PULLREQUESTNUMBER=7 SYSTEM_PULLREQUEST_PULLREQUESTID=99 SYSTEM_PULLREQUEST_ISFORK=True",
                true,
            ),
            (
                "CODEBUILD_BUILD_ID=sales:1 CODEBUILD_WEBHOOK_TRIGGER=pr/7 CODEBUILD_WEBHOOK_HEAD_REF=refs/heads/main",
                true,
            ),
            ("DRONE=true DRONE_BRANCH=main DRONE_PULL_REQUEST=7", true),
            (
                "BUILDKITE=true BUILDKITE_BRANCH=main BUILDKITE_PULL_REQUEST=7 BUILDKITE_REPO=git@example.com:acme/sales.git BUILDKITE_PULL_REQUEST_REPO=https://example.com/eve/sales.git",
                true,
            ),
            (
                "GITHUB_ACTIONS=true GITHUB_EVENT_NAME=pull_request GITHUB_REF=refs/pull/7/merge GITHUB_REF_TYPE=branch GITHUB_REF_NAME=7/merge GITHUB_HEAD_REF=main",
                true,
            ),
        ];
        for (variables, is_fork) in requests {
            assert_eq!(
                pushed(&run(variables)),
                (None, None, Some((7, is_fork))),
                "{variables:?}"
            );
        }
    }

    /// They build branches: an open pull request is beside the point.
    #[test]
    fn a_branch_with_a_pull_request_is_both() {
        let built: [&str; 2] = [
            "CIRCLECI=true CIRCLE_BRANCH=feature CIRCLE_PULL_REQUEST=https://github.com/acme/sales/pull/7",
            "BUILDKITE=true BUILDKITE_BRANCH=feature BUILDKITE_PULL_REQUEST=7 BUILDKITE_REPO=git@example.com:acme/sales.git BUILDKITE_PULL_REQUEST_REPO=https://example.com/acme/sales.git",
        ];
        for variables in built {
            let expected = (Some("feature"), None, Some((7, false)));
            assert_eq!(pushed(&run(variables)), expected, "{variables:?}");
        }
    }

    #[test]
    fn a_merge_queue_is_no_push() {
        let github = run(
            "GITHUB_ACTIONS=true GITHUB_EVENT_NAME=merge_group GITHUB_REF_TYPE=branch GITHUB_REF_NAME=gh-readonly-queue/main/pr-7-abc",
        );
        assert_eq!(pushed(&github), (None, None, None));
    }

    #[test]
    fn what_github_says_in_its_event_counts() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("event.json");
        let of = |name: &str, event: Value| {
            std::fs::write(&file, event.to_string()).unwrap();
            // A workflow of the default branch, whatever it is for.
            run(&format!(
                "GITHUB_ACTIONS=true GITHUB_EVENT_NAME={name} GITHUB_EVENT_PATH={} \
                 GITHUB_REF_TYPE=branch GITHUB_REF_NAME=main GITHUB_REPOSITORY=acme/sales",
                file.display()
            ))
        };
        let head = |repository: &str| serde_json::json!({"pull_request": {"number": 7, "head": {"repo": {"full_name": repository}}}});
        let ours = of("pull_request", head("acme/sales"));
        assert_eq!(pushed(&ours), (None, None, Some((7, false))));
        let theirs = of("pull_request_target", head("eve/sales"));
        assert_eq!(pushed(&theirs), (None, None, Some((7, true))));
        let after = of(
            "workflow_run",
            serde_json::json!({"workflow_run": {"event": "pull_request", "head_repository": {"full_name": "eve/sales"}, "pull_requests": []}}),
        );
        assert_eq!(pushed(&after), (None, None, Some((0, true))));
        let after_push = of(
            "workflow_run",
            serde_json::json!({"workflow_run": {"event": "push"}}),
        );
        assert_eq!(pushed(&after_push), (Some("main"), None, None));
        let comment = of(
            "issue_comment",
            serde_json::json!({"issue": {"number": 7, "pull_request": {}}}),
        );
        assert_eq!(pushed(&comment), (None, None, Some((7, true))));
        let garbage = of("push", Value::Null);
        assert_eq!(pushed(&garbage), (Some("main"), None, None));
    }
}
