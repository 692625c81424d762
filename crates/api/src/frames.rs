//! Many blobs in one body: for each, its digest (32 bytes), its length (8 bytes,
//! big-endian) and its bytes.
//!
//! A deploy of one changed file is one request this way, and so is the first
//! deploy of a large tree; a broken connection loses only the blob it broke in.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use updraft_model::Digest;

/// The media type of such a body.
pub const CONTENT_TYPE: &str = "application/vnd.updraft.blobs.v1";

const HEADER: usize = 40;

/// The head of one frame.
pub fn head(digest: Digest, length: u64) -> Bytes {
    let mut head = BytesMut::with_capacity(HEADER);
    head.put_slice(digest.as_bytes());
    head.put_u64(length);
    head.freeze()
}

#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("blob {digest} is {length} bytes, over the limit of {limit}")]
    TooLarge {
        digest: Digest,
        length: u64,
        limit: u64,
    },
    #[error("the body ended in the middle of a blob")]
    CutShort,
    #[error("blob {digest} has other bytes than its digest says")]
    Corrupt { digest: Digest },
}

/// Takes a body apart as its chunks arrive. One blob is held in memory at a
/// time, and none over the limit.
#[derive(Debug)]
pub struct FrameReader {
    buffer: BytesMut,
    limit: u64,
}

impl FrameReader {
    pub fn new(limit: u64) -> Self {
        Self {
            buffer: BytesMut::new(),
            limit,
        }
    }

    pub fn push(&mut self, chunk: &[u8]) {
        self.buffer.extend_from_slice(chunk);
    }

    /// The next whole blob, once its bytes are there; verified.
    pub fn next_blob(&mut self) -> Result<Option<(Digest, Bytes)>, FrameError> {
        match self.next_unverified()? {
            Some((digest, bytes)) if Digest::of(&bytes) != digest => {
                Err(FrameError::Corrupt { digest })
            }
            blob => Ok(blob),
        }
    }

    /// The next whole blob under the name that it came with, for whoever
    /// verifies it elsewhere: that takes long.
    pub fn next_unverified(&mut self) -> Result<Option<(Digest, Bytes)>, FrameError> {
        if self.buffer.len() < HEADER {
            return Ok(None);
        }
        let mut head = &self.buffer[..HEADER];
        let mut digest = [0; 32];
        head.copy_to_slice(&mut digest);
        let digest = Digest::from_bytes(digest);
        let length = head.get_u64();
        if length > self.limit {
            return Err(FrameError::TooLarge {
                digest,
                length,
                limit: self.limit,
            });
        }
        // Within the limit, and the limit fits into memory.
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if self.buffer.len() - HEADER < length {
            self.buffer.reserve(HEADER + length - self.buffer.len());
            return Ok(None);
        }
        self.buffer.advance(HEADER);
        Ok(Some((digest, self.buffer.split_to(length).freeze())))
    }

    /// The length of a blob of which a part has come.
    pub fn coming(&self) -> Option<u64> {
        let length = self.buffer.get(HEADER - 8..HEADER)?;
        length.try_into().ok().map(u64::from_be_bytes)
    }

    /// Says whether the body ended where a blob did.
    pub fn finish(self) -> Result<(), FrameError> {
        if self.buffer.is_empty() {
            Ok(())
        } else {
            Err(FrameError::CutShort)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_apart_what_was_put_together_whatever_the_chunks() {
        let blobs: [&[u8]; 3] = [b"one", b"", &[7; 3000]];
        let mut body = Vec::new();
        for blob in blobs {
            body.extend_from_slice(&head(Digest::of(blob), blob.len() as u64));
            body.extend_from_slice(blob);
        }
        for size in [1, 7, 64, 10_000] {
            let mut reader = FrameReader::new(4096);
            let mut seen = Vec::new();
            for chunk in body.chunks(size) {
                reader.push(chunk);
                while let Some((_, bytes)) = reader.next_blob().unwrap() {
                    seen.push(bytes);
                }
            }
            reader.finish().unwrap();
            assert_eq!(seen, blobs);
        }
    }

    #[test]
    fn refuses_wrong_bytes_a_cut_and_a_giant() {
        let mut reader = FrameReader::new(10);
        reader.push(&head(Digest::of(b"a"), 1));
        reader.push(b"b");
        assert!(matches!(
            reader.next_blob(),
            Err(FrameError::Corrupt { .. })
        ));

        let mut reader = FrameReader::new(10);
        reader.push(&head(Digest::of(b"a"), 1));
        assert!(reader.next_blob().unwrap().is_none());
        assert!(matches!(reader.finish(), Err(FrameError::CutShort)));

        let mut reader = FrameReader::new(10);
        reader.push(&head(Digest::of(b"a"), u64::MAX));
        assert!(matches!(
            reader.next_blob(),
            Err(FrameError::TooLarge { .. })
        ));
    }
}
