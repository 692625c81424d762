use serde_json::{Value, json};
use updraft_model::RepositoryName;

use super::{Action, RegistryError, Visitor};
use crate::app::App;

/// More are asked for page by page.
const MOST: usize = 10_000;

/// A part of a repository's tags; when there are more, how many and the last of them.
pub(super) struct Page {
    pub(super) body: Value,
    pub(super) continues_after: Option<(usize, String)>,
}

/// Lists tags in the order of their bytes.
pub(super) async fn list(
    app: &App,
    visitor: &Visitor,
    repository: &RepositoryName,
    most: Option<usize>,
    after: Option<&str>,
) -> Result<Page, RegistryError> {
    let mut read = app.store.read().await?;
    visitor
        .deployment(&mut read, repository, Action::Pull)
        .await?;
    let most = most.unwrap_or(MOST).min(MOST);
    let page = read.registry_tags(repository, after, most).await?;
    if page.tags.is_empty() && !read.has_repository(repository).await? {
        return Err(RegistryError::Empty(repository.clone()));
    }
    let tags: Vec<&str> = page.tags.iter().map(updraft_model::Tag::as_str).collect();
    let continues_after = tags.last().filter(|_| page.has_more);
    Ok(Page {
        continues_after: continues_after.map(|tag| (most, (*tag).to_owned())),
        body: json!({ "name": repository.as_str(), "tags": tags }),
    })
}
