//! Room in memory for blobs on their way in, whoever sends them.

use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};

/// What room is counted in.
const UNIT: u64 = 64 << 10;
/// Blobs from this size on share room of their own, so that few large ones on
/// slow lines keep nobody's small ones out.
const LARGE: u64 = 32 << 20;
const ROOM_FOR_SMALL: u64 = 128 << 20;
const ROOM_FOR_LARGE: u64 = 384 << 20;
/// Whoever waits longer is told to come again, and not to wait without a sign.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Debug)]
pub(crate) struct UploadRoom {
    small: Semaphore,
    large: Semaphore,
}

/// Ends with the bytes that it is for.
pub(crate) type Room<'a> = SemaphorePermit<'a>;

impl UploadRoom {
    pub(crate) fn new() -> Self {
        Self {
            small: Semaphore::new(units(ROOM_FOR_SMALL) as usize),
            large: Semaphore::new(units(ROOM_FOR_LARGE) as usize),
        }
    }

    /// Room for one blob; none, when there was none for too long. One that is
    /// larger than all of it waits until it has all of it.
    pub(crate) async fn take(&self, size: u64) -> Option<Room<'_>> {
        let (room, most) = if size < LARGE {
            (&self.small, ROOM_FOR_SMALL)
        } else {
            (&self.large, ROOM_FOR_LARGE)
        };
        let taken = room.acquire_many(units(size.min(most)));
        let taken = tokio::time::timeout(PATIENCE, taken).await;
        taken.ok()?.ok()
    }
}

fn units(size: u64) -> u32 {
    u32::try_from(size.div_ceil(UNIT)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn large_blobs_keep_large_ones_waiting_and_no_small_ones() {
        let room = UploadRoom::new();
        let large = room.take(ROOM_FOR_LARGE + 1).await.unwrap();
        let small = room.take(LARGE - 1).await.unwrap();
        assert!(room.take(LARGE).await.is_none());
        drop(large);
        drop(room.take(LARGE).await.unwrap());
        drop(small);
    }
}
