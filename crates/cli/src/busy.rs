//! Work that takes a while on a thread of its own, such as fetching packages.

use std::pin::pin;
use std::sync::Arc;

use updraft_image::{Say, Stop, StopOnDrop};

use crate::console::{Console, Step};
use crate::failure::Result;

/// Does it and shows meanwhile what it says. What it runs is killed when
/// nobody waits for it any more.
pub(crate) async fn busy<T: Send + 'static>(
    step: &mut Step,
    out: &mut Console,
    work: impl FnOnce(&Stop, &dyn Fn(&str)) -> Result<T> + Send + 'static,
) -> Result<T> {
    let ending = StopOnDrop::default();
    let asked = ending.stop();
    let done = telling(step, out, |say| {
        tokio::task::spawn_blocking(move || work(&asked, &*say))
    });
    done.await?
}

/// Waits for work that says what it does as it goes, and shows that.
pub(crate) async fn telling<W: Future>(
    step: &mut Step,
    out: &mut Console,
    work: impl FnOnce(Say) -> W,
) -> W::Output {
    let (say, mut said) = tokio::sync::mpsc::unbounded_channel::<String>();
    // Whoever listens may have gone.
    let say = Arc::new(move |text: &str| drop(say.send(text.to_owned())));
    let mut work = pin!(work(say));
    loop {
        tokio::select! {
            Some(text) = said.recv() => out.update(step, &text),
            done = &mut work => return done,
        }
    }
}
