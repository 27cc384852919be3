//! What every command works with: the nodes, the output, and the remembered contexts.

use std::future::Future;
use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use quorate_client::{Bucket, Context, Error};

use crate::args::{Common, Name};
use crate::exit::{Done, Failure};
use crate::nodes::{Nodes, SignAsOperator};
use crate::out::Out;
use crate::refusal;
use crate::session::Session;

/// How long a person waits without being told for what.
const SILENT_FOR: Duration = Duration::from_secs(2);

/// One run of a command.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) out: Out,
    pub(crate) nodes: Nodes,
    session: Session,
}

impl App {
    /// For these arguments.
    ///
    /// # Errors
    /// Usage: an invalid address, token or configuration.
    pub(crate) fn new(common: &Common, operator: SignAsOperator<'_>) -> Done<Self> {
        let nodes = Nodes::new(common, operator)?;
        Ok(Self { out: Out::new(common.json), nodes, session: Session::of_user() })
    }

    /// The bucket of a key.
    pub(crate) fn bucket(&self, name: &Name) -> Bucket {
        self.nodes.client.bucket(name.bucket.as_str())
    }

    /// Waits for an answer; a person is told for what after two seconds.
    ///
    /// # Errors
    /// The failure, with where the address is from if no node answered.
    pub(crate) async fn ask<T>(
        &self,
        what: &str,
        answer: impl Future<Output = Result<T, Error>>,
    ) -> Done<T> {
        Ok(patiently(what, answer).await.map_err(|error| self.failure(&error))?)
    }

    /// What an error means, with where the address is from if no node answered.
    pub(crate) fn failure(&self, error: &Error) -> Failure {
        let failure = refusal::of(error);
        let is_silent = matches!(error, Error::Unreachable { .. } | Error::BadAnswer { .. });
        if is_silent { self.nodes.place(failure) } else { failure }
    }

    /// The name under which contexts of this cluster are remembered. Whoever may not look at the cluster
    /// knows it by its addresses.
    async fn cluster_id(&self) -> Done<String> {
        let view = match patiently("asking", self.nodes.admin().cluster()).await {
            Ok(view) => view,
            Err(Error::Denied { .. }) => return Ok(self.nodes.urls.join(",")),
            Err(error) => return Err(self.failure(&error).into()),
        };
        let id = view["cluster_id"].as_str().ok_or_else(|| refusal::incomplete("/cluster"))?;
        Ok(id.to_owned())
    }

    /// Remembers a context; `None` forgets it. A cluster that does not tell its id is no error.
    pub(crate) async fn remember(&self, name: &Name, context: Option<&str>) {
        if let Ok(cluster) = self.cluster_id().await {
            self.session.remember(&cluster, name, context);
        }
    }

    /// What a writer has seen.
    ///
    /// # Errors
    /// If no node answers, or `--context` is none.
    pub(crate) async fn seen(&self, name: &Name, given: &Causality) -> Done<Seen> {
        if let Some(text) = &given.context {
            let context = Context::parse(text);
            let wrong = |_| {
                Failure::usage("--context: expected what `quorate get --json` shows as context")
            };
            return Ok(Seen { context: Some(context.map_err(wrong)?), from: From::Given });
        }
        if given.blind {
            return Ok(Seen { context: None, from: From::Blind });
        }
        let cluster = self.cluster_id().await?;
        let seen = self.session.find(&cluster, name);
        let known =
            seen.and_then(|seen| Some((Context::parse(&seen.context).ok()?, seen.ago_ms())));
        Ok(match known {
            Some((context, ago_ms)) => {
                Seen { context: Some(context), from: From::Remembered { ago_ms } }
            }
            None => Seen { context: None, from: From::Nothing },
        })
    }
}

/// How a write says what its author has seen.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Causality {
    /// Replace exactly what this context covers, not what your last `get` of the key saw
    #[arg(long, conflicts_with = "blind")]
    pub(crate) context: Option<String>,
    /// Ignore what was read before
    #[arg(long)]
    pub(crate) blind: bool,
}

/// What a writer has seen, and where that is from.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) context: Option<Context>,
    pub(crate) from: From,
}

/// Where a context is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum From {
    /// `--context`.
    Given,
    /// An earlier command.
    Remembered { ago_ms: u64 },
    /// `--blind`.
    Blind,
    /// The key was not read before.
    Nothing,
}

impl From {
    /// The stable name that `--json` shows.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Given => "given",
            Self::Remembered { .. } => "remembered",
            Self::Blind | Self::Nothing => "none",
        }
    }
}

/// Waits for something, and says so after two seconds, on a terminal.
pub(crate) async fn patiently<T>(what: &str, future: impl Future<Output = T>) -> T {
    if !std::io::stderr().is_terminal() {
        return future.await;
    }
    let mut future = std::pin::pin!(future);
    if let Ok(done) = tokio::time::timeout(SILENT_FOR, &mut future).await {
        return done;
    }
    let spinner = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
        spinner.set_style(style);
    }
    spinner.set_message(what.to_owned());
    spinner.enable_steady_tick(Duration::from_millis(200));
    let done = future.await;
    spinner.finish_and_clear();
    done
}
