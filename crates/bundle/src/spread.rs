//! Work on every core, in a fixed order of results.

use std::sync::Mutex;
use std::thread;

/// Runs `work` for every item. After a failure nothing new is started, and
/// the first one is returned.
pub(crate) fn spread<T: Send, R: Send, E: Send>(
    items: Vec<T>,
    work: impl Fn(T) -> Result<R, E> + Sync,
) -> Result<Vec<R>, E> {
    let threads = thread::available_parallelism()
        .map_or(1, usize::from)
        .min(8)
        .min(items.len());
    if threads < 2 {
        return items.into_iter().map(work).collect();
    }
    let queue = Mutex::new(items.into_iter().enumerate());
    let failed: Mutex<Option<E>> = Mutex::new(None);
    let run = || {
        let mut done = Vec::new();
        loop {
            if failed.lock().map_or(true, |failed| failed.is_some()) {
                break;
            }
            let Some((at, item)) = queue.lock().ok().and_then(|mut queue| queue.next()) else {
                break;
            };
            match work(item) {
                Ok(result) => done.push((at, result)),
                Err(error) => {
                    if let Ok(mut failed) = failed.lock() {
                        failed.get_or_insert(error);
                    }
                }
            }
        }
        done
    };
    let mut results: Vec<(usize, R)> = thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        threads
            .into_iter()
            .flat_map(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
            .collect()
    });
    match failed.into_inner() {
        Ok(None) => {}
        Ok(Some(error)) => return Err(error),
        Err(_) => unreachable!("a panic was resumed above"),
    }
    results.sort_unstable_by_key(|(at, _)| *at);
    Ok(results.into_iter().map(|(_, result)| result).collect())
}
