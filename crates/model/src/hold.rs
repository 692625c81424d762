//! What a rollback keeps from coming back by itself.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{DeployId, Release, ReleasePart};

/// Since somebody rolled back: what was taken back is refused until other content
/// comes or somebody lifts this.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Hold {
    /// The token of whoever rolled back last.
    pub by: String,
    pub since: DateTime<Utc>,
    /// As they said.
    pub reason: String,
    pub rollback: DeployId,
    /// What is held back, the newest first: each rollback in a row adds to it.
    pub held: Vec<HeldRelease>,
}

/// A Release that was rolled back from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HeldRelease {
    /// The deploy that had made it the wanted one.
    pub deploy: DeployId,
    pub release: Release,
    /// The parts that were taken back with it.
    pub parts: Vec<ReleasePart>,
}

/// How a Release that is asked for stands to a hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held<'a> {
    /// It changes nothing that was rolled back.
    Beside,
    /// It brings back what was rolled back.
    Back(&'a HeldRelease),
    /// It changes the same parts to something else.
    MovedPast,
}

impl Hold {
    /// Further back nobody goes.
    const MOST: usize = 20;

    /// Adds what was held back before.
    #[must_use]
    pub fn after(mut self, before: Option<Self>, returned_to: &Release) -> Self {
        let earlier = before.into_iter().flat_map(|hold| hold.held);
        for held in earlier {
            if !self.holds(&held.release) && !held.release.same_content(returned_to) {
                self.held.push(held);
            }
        }
        self.held.truncate(Self::MOST);
        self
    }

    /// Whether this very content is held back.
    pub fn holds(&self, release: &Release) -> bool {
        let mut held = self.held.iter();
        held.any(|held| held.release.same_content(release))
    }

    /// Looks at the parts that would change alone: halves never touch each other.
    pub fn judge(&self, wanted: Option<&Release>, asked: &Release) -> Held<'_> {
        let changes = asked.parts_that_differ_from(wanted);
        let touches = |held: &HeldRelease| changes.iter().any(|part| held.parts.contains(part));
        let is_back = |held: &&HeldRelease| {
            let mut changes = changes.iter();
            touches(held) && changes.all(|part| asked.same_part(part, &held.release))
        };
        if let Some(held) = self.held.iter().find(is_back) {
            return Held::Back(held);
        }
        if self.held.iter().any(touches) {
            Held::MovedPast
        } else {
            Held::Beside
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BundleRef, Digest, ImageRef, ReleaseId};

    fn release(image: &str, bundles: &[(&str, &str)]) -> Release {
        let bundle = |(name, content): &(&str, &str)| {
            let digest = Digest::of(content.as_bytes());
            (name.parse().unwrap(), BundleRef { digest })
        };
        Release {
            id: ReleaseId::new(),
            image: ImageRef::Environment {
                digest: Digest::of(image.as_bytes()),
            },
            bundles: bundles.iter().map(bundle).collect(),
        }
    }

    fn rolled_back(from: &Release, to: &Release, before: Option<Hold>) -> Hold {
        let hold = Hold {
            by: "ada".into(),
            since: DateTime::from_timestamp(1_800_000_000, 0).unwrap(),
            reason: String::new(),
            rollback: DeployId::new(),
            held: vec![HeldRelease {
                deploy: DeployId::new(),
                parts: from.parts_that_differ_from(Some(to)),
                release: from.clone(),
            }],
        };
        hold.after(before, to)
    }

    #[test]
    fn what_was_taken_back_is_held_whole_or_in_part_and_anything_else_moves_past_it() {
        let old = release("image 1", &[("dags", "dags 1"), ("dbt", "dbt 1")]);
        let new = release("image 2", &[("dags", "dags 2"), ("dbt", "dbt 1")]);
        let hold = rolled_back(&new, &old, None);
        let judge = |image, dags, dbt| {
            let asked = release(image, &[("dags", dags), ("dbt", dbt)]);
            hold.judge(Some(&old), &asked)
        };
        let is_back = |held| matches!(held, Held::Back(_));
        assert!(is_back(judge("image 2", "dags 2", "dbt 1")));
        assert!(is_back(judge("image 1", "dags 2", "dbt 1")));
        assert!(is_back(judge("image 2", "dags 1", "dbt 1")));
        assert_eq!(judge("image 1", "dags 3", "dbt 1"), Held::MovedPast);
        // The mended helper may be in the image.
        assert_eq!(judge("image 3", "dags 2", "dbt 1"), Held::MovedPast);
        assert_eq!(judge("image 1", "dags 1", "dbt 2"), Held::Beside);
    }

    #[test]
    fn each_rollback_adds_to_what_is_held_but_for_what_it_returns_to() {
        let [one, two, three] = ["1", "2", "3"].map(|dags| release("image", &[("dags", dags)]));
        let hold = rolled_back(&three, &two, None);
        let hold = rolled_back(&two, &one, Some(hold));
        assert!(hold.holds(&three) && hold.holds(&two) && !hold.holds(&one));
        assert!(matches!(hold.judge(Some(&one), &three), Held::Back(_)));
        let hold = rolled_back(&one, &three, Some(hold));
        assert!(hold.holds(&one) && hold.holds(&two) && !hold.holds(&three));
        let again = rolled_back(&one, &three, Some(hold));
        assert_eq!(again.held.len(), 2);
    }
}
