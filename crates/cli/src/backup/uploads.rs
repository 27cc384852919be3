//! Uploads in parts. A store keeps, and bills, the parts of those that are neither completed nor given up;
//! so each that ends early, in whatever way, is remembered until it can be given up.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use object_store::path::Path;
use object_store::{Error, MultipartUpload, ObjectStore, PutMultipartOptions, Result, UploadPart};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

/// How long giving up may take: it is the end of a command that failed or was interrupted.
const GIVE_UP_WITHIN: Duration = Duration::from_secs(10);

/// Those that ended early, and those that begin.
#[derive(Debug, Default)]
pub(crate) struct Uploads {
    left: RefCell<Vec<Box<dyn MultipartUpload>>>,
    /// The store is asked to begin one beside the command: an answer that is not waited for any more would
    /// say which upload is to be given up.
    beginning: RefCell<JoinSet<()>>,
}

/// The answer to the beginning of one. It may come just when it is not waited for any more.
struct Begun<'a> {
    all: &'a Uploads,
    answer: oneshot::Receiver<Result<Box<dyn MultipartUpload>>>,
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        self.answer.close();
        if let Ok(Ok(upload)) = self.answer.try_recv() {
            self.all.left.borrow_mut().push(upload);
        }
    }
}

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
    pub(crate) async fn begin(
        &self,
        store: &Arc<dyn ObjectStore>,
        path: &Path,
    ) -> Result<Upload<'_>> {
        let (store, path) = (store.clone(), path.clone());
        let (taker, answer) = oneshot::channel();
        let mut begun = Begun { all: self, answer };
        let begins = async move {
            let begun = store.put_multipart_opts(&path, PutMultipartOptions::default()).await;
            if let Err(Ok(mut upload)) = taker.send(begun) {
                drop(upload.abort().await);
            }
        };
        {
            let mut beginning = self.beginning.borrow_mut();
            while beginning.try_join_next().is_some() {}
            beginning.spawn(begins);
        }
        let lost = |source| Error::Generic { store: "upload", source: Box::new(source) };
        Ok(Upload { all: self, upload: Some((&mut begun.answer).await.map_err(lost)??) })
    }

    /// Gives up those that ended early. What fails is left to the store: rules for the lifetime of
    /// incomplete uploads are its own.
    pub(crate) async fn give_up(&self) {
        let (mut left, mut beginning) = (self.left.take(), self.beginning.take());
        let all = async {
            join_all(left.iter_mut().map(|upload| upload.abort())).await;
            while beginning.join_next().await.is_some() {}
        };
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
        self.all.left.borrow_mut().extend(self.upload.take());
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use futures_util::FutureExt as _;
    use object_store::ObjectStoreExt as _;
    use object_store::memory::InMemory;

    use super::*;

    #[tokio::test]
    async fn what_ends_early_is_given_up_and_the_rest_is_not() {
        let (store, uploads) = (Arc::new(InMemory::new()), Uploads::default());
        let store: Arc<dyn ObjectStore> = store;
        let (early, whole) = (Path::from("early"), Path::from("whole"));
        let mut upload = uploads.begin(&store, &early).await.unwrap();
        upload.put("a".into()).await.unwrap();
        drop(upload);
        assert_eq!(uploads.left.borrow().len(), 1);
        let mut upload = uploads.begin(&store, &whole).await.unwrap();
        upload.put("b".into()).await.unwrap();
        upload.complete().await.unwrap();
        assert_eq!(uploads.left.borrow().len(), 1);
        uploads.give_up().await;
        assert_eq!(uploads.left.borrow().len(), 0);
        assert!(store.get(&early).await.is_err() && store.get(&whole).await.is_ok());
        // One whose beginning is not waited for.
        let begin = uploads.begin(&store, &early);
        assert!(begin.now_or_never().is_none());
        assert_eq!(uploads.beginning.borrow().len(), 1);
        uploads.give_up().await;
        assert_eq!(uploads.beginning.borrow().len(), 0);
    }
}
