//! Fetches the files of a node's backup into a place, and verifies what arrives.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use object_store::ObjectStoreExt;
use quorate_client::{Admin, Error, FileStream};

use super::catalog::{Catalog, FILES, failed};
use super::manifest::NodeFile;
use crate::exit::{Done, Exit, Failure, Stop};
use crate::refusal;

/// Of how much at a time two are in memory for each node; what is not longer is stored in one piece. Object
/// stores take no parts below 5 MiB, and 10,000 parts.
const PART_BYTES: usize = 8 << 20;
/// How often a broken stream is begun again.
const ATTEMPTS: u32 = 8;
const PAUSE: Duration = Duration::from_millis(500);

/// The backup of one node.
pub(crate) struct Source<'a> {
    pub(crate) admin: &'a Admin,
    pub(crate) node: &'a str,
    pub(crate) backup: &'a str,
}

/// Copies a file. It is there, under its hash, only if every byte is as the manifest says. `progress` is told
/// how many bytes have come.
///
/// # Errors
/// The node does not give it, it is not as the manifest says, or it cannot be stored.
pub(crate) async fn copy(
    catalog: &Catalog,
    from: &Source<'_>,
    file: &NodeFile,
    progress: &dyn Fn(u64),
) -> Done {
    let mut incoming = Incoming::begin(from, file);
    let path = catalog.place.at(&[FILES, &file.blake3]);
    let store = &catalog.place.store;
    let first = incoming.part(progress).await?;
    if incoming.is_over() {
        incoming.check()?;
        let put = store.put(&path, first.into()).await;
        return put.map(drop).map_err(|error| failed(catalog, &error).into());
    }
    let failed = |error| failed(catalog, &error);
    let mut upload = catalog.uploads.begin(store, &path).await.map_err(failed)?;
    let mut part = first;
    // One part is sent while the next one comes.
    while !incoming.is_over() {
        let (put, next) = tokio::join!(upload.put(part), incoming.part(progress));
        put.map_err(failed)?;
        part = next?;
    }
    incoming.check()?;
    upload.put(part).await.map_err(failed)?;
    Ok(upload.complete().await.map_err(failed)?)
}

/// A file on its way from a node.
struct Incoming<'a> {
    from: &'a Source<'a>,
    file: &'a NodeFile,
    stream: Option<FileStream>,
    got: u64,
    hasher: blake3::Hasher,
    left: Bytes,
    attempts: u32,
}

impl<'a> Incoming<'a> {
    fn begin(from: &'a Source<'a>, file: &'a NodeFile) -> Self {
        let (hasher, left) = (blake3::Hasher::new(), Bytes::new());
        Self { from, file, stream: None, got: 0, hasher, left, attempts: 0 }
    }

    fn is_over(&self) -> bool {
        self.got >= self.file.bytes && self.left.is_empty()
    }

    /// Whether what came is what the manifest says.
    fn check(&self) -> Done {
        let Self { from, file, .. } = self;
        match file.is(&self.hasher) {
            true => Ok(()),
            false => Err(Failure::new(
                Exit::Failed,
                format!(
                    "{}: {} is not as its manifest says: the disk is damaged there",
                    from.node, file.name
                ),
            )
            .advise("quorate doctor on that node; make the backup again once its disk is replaced")
            .into()),
        }
    }

    /// The next part: as long as parts are, but for the last.
    async fn part(&mut self, progress: &dyn Fn(u64)) -> Done<Bytes> {
        let mut part = BytesMut::new();
        while part.len() < PART_BYTES && !self.is_over() {
            if self.left.is_empty() {
                self.left = self.next().await?;
                self.hasher.update(&self.left);
                self.got += self.left.len() as u64;
                progress(self.left.len() as u64);
            }
            let room = (PART_BYTES - part.len()).min(self.left.len());
            part.extend_from_slice(&self.left.split_to(room));
        }
        Ok(part.freeze())
    }

    /// The next bytes; asks for the rest where a stream broke.
    async fn next(&mut self) -> Done<Bytes> {
        loop {
            match self.try_next().await {
                Ok(Some(bytes)) if bytes.is_empty() => {}
                Ok(Some(bytes)) => return Ok(bytes),
                Ok(None) => {
                    let Source { node, .. } = self.from;
                    let why = format!("{node}: {} ended before its end", self.file.name);
                    return Err(Failure::new(Exit::Failed, why).into());
                }
                Err(error) => self.rest(&error).await?,
            }
        }
    }

    async fn try_next(&mut self) -> Result<Option<Bytes>, Error> {
        let Source { admin, backup, .. } = self.from;
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => none.insert(admin.backup_file(backup, &self.file.name, self.got).await?),
        };
        stream.chunk().await
    }

    /// After an error: another attempt, unless there were enough.
    async fn rest(&mut self, error: &Error) -> Done {
        self.stream = None;
        self.attempts += 1;
        let is_final = matches!(error, Error::NotFound { .. } | Error::Denied { .. });
        if self.attempts >= ATTEMPTS || is_final {
            let mut failure = refusal::of(error);
            failure.message =
                format!("{}: {}: {}", self.from.node, self.file.name, failure.message);
            return Err(Stop::from(failure));
        }
        tokio::time::sleep(PAUSE * self.attempts).await;
        Ok(())
    }
}
