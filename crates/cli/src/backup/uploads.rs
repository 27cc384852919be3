//! Uploads in parts. A store keeps, and bills, the parts of those that are neither completed nor given up;
//! so each that ends early, in whatever way, is remembered until it can be given up.

use std::cell::RefCell;
use std::time::Duration;

use futures_util::future::join_all;
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStore, PutMultipartOptions, Result, UploadPart};

/// How long giving up may take: it is the end of a command that failed or was interrupted.
const GIVE_UP_WITHIN: Duration = Duration::from_secs(10);

/// Those that ended early.
#[derive(Debug, Default)]
pub(crate) struct Uploads(RefCell<Vec<Box<dyn MultipartUpload>>>);

/// One that is under way.
pub(crate) struct Upload<'a> {
    all: &'a Uploads,
    upload: Option<Box<dyn MultipartUpload>>,
}

impl Uploads {
    /// Begins one.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn begin(&self, store: &dyn ObjectStore, path: &Path) -> Result<Upload<'_>> {
        let upload = store.put_multipart_opts(path, PutMultipartOptions::default()).await?;
        Ok(Upload { all: self, upload: Some(upload) })
    }

    /// Gives up those that ended early. What fails is left to the store: rules for the lifetime of
    /// incomplete uploads are its own.
    pub(crate) async fn give_up(&self) {
        let mut left = self.0.take();
        let all = join_all(left.iter_mut().map(|upload| upload.abort()));
        drop(tokio::time::timeout(GIVE_UP_WITHIN, all).await);
    }
}

impl Upload<'_> {
    /// Sends the next part. Parts keep the order of the calls.
    pub(crate) fn put(&mut self, part: bytes::Bytes) -> UploadPart {
        match &mut self.upload {
            Some(upload) => upload.put_part(part.into()),
            None => Box::pin(async { Ok(()) }),
        }
    }

    /// Makes the parts an object, all at once.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn complete(mut self) -> Result<()> {
        if let Some(upload) = &mut self.upload {
            upload.complete().await?;
        }
        self.upload = None;
        Ok(())
    }
}

impl Drop for Upload<'_> {
    fn drop(&mut self) {
        self.all.0.borrow_mut().extend(self.upload.take());
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use object_store::ObjectStoreExt as _;
    use object_store::memory::InMemory;

    use super::*;

    #[tokio::test]
    async fn what_ends_early_is_given_up_and_the_rest_is_not() {
        let (store, uploads) = (InMemory::new(), Uploads::default());
        let (early, whole) = (Path::from("early"), Path::from("whole"));
        let mut upload = uploads.begin(&store, &early).await.unwrap();
        upload.put("a".into()).await.unwrap();
        drop(upload);
        assert_eq!(uploads.0.borrow().len(), 1);
        let mut upload = uploads.begin(&store, &whole).await.unwrap();
        upload.put("b".into()).await.unwrap();
        upload.complete().await.unwrap();
        assert_eq!(uploads.0.borrow().len(), 1);
        uploads.give_up().await;
        assert_eq!(uploads.0.borrow().len(), 0);
        assert!(store.get(&early).await.is_err() && store.get(&whole).await.is_ok());
    }
}
