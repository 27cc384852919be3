//! A subscriber to the feed of the bucket.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::{OffCourse, Played, Scene, off};
use crate::follower::Follower;

/// How many pages a subscriber asks for until it has all that there is.
const PAGES_MAX: usize = 400;
/// How long it rests between two.
const PAGE_EVERY: Duration = Duration::from_millis(200);

impl Scene {
    /// A subscriber that has been told all that there is.
    pub(in crate::histories) async fn subscriber(&self) -> Result<Follower, OffCourse> {
        let follower = Follower::new(self.client.clone(), Arc::default());
        let mut follower = follower.ok_or_else(|| off("the bucket has no name"))?;
        if !follower.begin().await {
            return Err(off("the bucket gets no feed"));
        }
        self.until_told(&mut follower).await?;
        Ok(follower)
    }

    /// A subscriber goes on until it has been told all that there is. The oracle judges each complete page.
    pub(in crate::histories) async fn until_told(&self, follower: &mut Follower) -> Played {
        for _ in 0..PAGES_MAX {
            if follower.follow().await == Some(true) {
                return Ok(());
            }
            sleep(PAGE_EVERY).await;
        }
        Err(off("it never comes that a subscriber is told all"))
    }
}
