//! Where a sorted list of paths is cut into layers.

use std::ops::Range;

use updraft_model::Digest;

use crate::limits::MAX_LAYERS;

/// Cuts sorted paths into runs, at places that only the paths decide.
///
/// A run ends after a path whose hash ends in `k` zero bits, with the
/// smallest `k` that gives at most [`MAX_LAYERS`] runs. So adding or removing
/// a path touches the run around it (or splits it, or joins two), an edit
/// touches one, and no list of paths needs to know an earlier one. Only when
/// a tree outgrows its `k` are all runs joined in pairs, once per doubling.
pub(crate) fn cut<'a>(paths: impl Iterator<Item = &'a str>) -> Vec<Range<usize>> {
    let zeros: Vec<u32> = paths.map(zero_bits).collect();
    let Some((_, inner)) = zeros.split_last() else {
        return Vec::new();
    };

    let mut ends_at = [0_usize; 65];
    for &zeros in inner {
        ends_at[zeros as usize] += 1;
    }
    let mut runs = 1 + inner.len();
    let mut bits = 0;
    while runs > MAX_LAYERS {
        runs -= ends_at[bits];
        bits += 1;
    }

    let mut cuts = Vec::with_capacity(runs);
    let mut start = 0;
    for (at, &zeros) in inner.iter().enumerate() {
        if zeros as usize >= bits {
            cuts.push(start..at + 1);
            start = at + 1;
        }
    }
    cuts.push(start..zeros.len());
    cuts
}

fn zero_bits(path: &str) -> u32 {
    let digest = Digest::of(path.as_bytes());
    let (head, _) = digest
        .as_bytes()
        .split_first_chunk::<8>()
        .expect("a digest has 32 bytes");
    u64::from_le_bytes(*head).trailing_zeros()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(count: usize) -> Vec<String> {
        let mut paths: Vec<String> = (0..count)
            .map(|n| format!("dags/team_{}/dag_{n}.py", n % 40))
            .collect();
        paths.sort();
        paths
    }

    fn cut_all(paths: &[String]) -> Vec<&[String]> {
        cut(paths.iter().map(String::as_str))
            .into_iter()
            .map(|run| &paths[run])
            .collect()
    }

    #[test]
    fn any_number_of_paths_gives_few_runs_that_cover_all() {
        for count in [0, 1, 2, 100, 120, 121, 122, 500, 5_000, 30_000] {
            let paths = paths(count);
            let runs = cut_all(&paths);
            assert!(runs.len() <= MAX_LAYERS, "{count}: {}", runs.len());
            assert_eq!(runs.concat(), paths);
            assert!(runs.iter().all(|run| !run.is_empty()));
        }
    }

    #[test]
    fn one_more_path_touches_at_most_two_runs() {
        let before = paths(3_000);
        let cut_before = cut_all(&before);
        for n in 0..50 {
            let mut after = before.clone();
            after.push(format!("dags/team_{}/new_{n}.py", n % 40));
            after.sort();
            let cut_after = cut_all(&after);
            let new = cut_after
                .iter()
                .filter(|run| !cut_before.contains(run))
                .count();
            assert!(new <= 2, "{new} runs changed");
        }
    }
}
