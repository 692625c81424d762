//! Work on many files with all processors, on stacks that deep code fits on.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

/// Set aside, not used, until a tree is deep.
const STACK: usize = 256 << 20;

/// Applies a function to each item, in any order, and gives the results in theirs.
pub(crate) fn map<T: Sync, R: Send>(
    items: &[T],
    each: impl Fn(&T) -> R + Sync,
) -> io::Result<Vec<R>> {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::with_capacity(items.len()));
    let work = || {
        let mut own = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(number) else { break };
            own.push((number, each(item)));
        }
        let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
        results.append(&mut own);
    };
    let processors = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..processors.min(items.len()) {
            let thread = thread::Builder::new().stack_size(STACK);
            thread.spawn_scoped(scope, work)?;
        }
        io::Result::Ok(())
    })?;
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_unstable_by_key(|(number, _)| *number);
    Ok(results.into_iter().map(|(_, result)| result).collect())
}
