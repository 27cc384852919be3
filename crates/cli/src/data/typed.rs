//! `quorate typed`: values that merge by themselves.

mod operation;
pub(crate) mod show;

use quorate_client::{AnyTyped, AnyValue, Applied, Context, Error, Outcome, Typed};

use self::operation::{Change, Pair, Pairs};
use super::written::idempotency_key;
use super::{OfRead, OfWrite};
use crate::app::{App, patiently};
use crate::args::{Common, Name};
use crate::exit::{Done, Exit, Failure};
use crate::out::count;

/// How often a change that removes is begun again if what it read was not found.
const ROUNDS: usize = 3;

/// Read and change counters, sets, flags, maps, registers and estimates.
///
/// They are keys of a bucket that has a type (`quorate bucket set BUCKET --type TYPE`, while it has no
/// keys). Concurrent changes are merged; there are no siblings. What removes (remove, disable,
/// remove-from) takes away what a read shows now, or what --context covers: what others add meanwhile
/// stays.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  quorate bucket set visits --type counter
  quorate typed increment visits/home              # by 1
  quorate typed increment stock/pens -5
  quorate typed get visits/home
  quorate typed add carts/alice book pen           # a set; or an estimate (hll)
  quorate typed remove carts/alice pen
  quorate typed enable flags/dark-mode
  quorate typed assign titles/home 'Welcome'
  quorate typed update users/ann --assign name=Ann --add roles=admin --add roles=ops --enable away
  quorate typed update users/ann --remove-from roles=ops --disable away --remove old
  quorate typed delete carts/alice

An increment is repeated under its Idempotency-Key, and counts once while the cluster is whole. If a
node fails meanwhile it can count twice; with --at-most-once it is never sent again once it may count.

JSON: bucket, key, type, value, exists, context; of a change also acks, hints. Counters beyond 64 bits
are text. Of delete: bucket, key, acks, hints.")]
pub struct Args {
    #[command(subcommand)]
    what: What,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum What {
    /// Read a value of any type
    Get(Get),
    /// Add to a counter; a negative number subtracts
    Increment(Increment),
    /// Add elements to a set, or strings to an estimate
    Add(Elements),
    /// Remove elements from a set
    Remove(Elements),
    /// Switch a flag on
    Enable(Key),
    /// Switch a flag off
    Disable(Key),
    /// Replace the text of a register
    Assign(Assign),
    /// Change the fields of a map
    Update(Box<Update>),
    /// Delete a key, whatever its type
    Delete(Key),
}

#[derive(Clone, Debug, clap::Args)]
struct Get {
    /// The key
    #[arg(value_name = "BUCKET/KEY")]
    name: Name,
    #[command(flatten)]
    quorum: OfRead,
}

#[derive(Clone, Debug, clap::Args)]
struct Key {
    /// The key
    #[arg(value_name = "BUCKET/KEY")]
    name: Name,
    #[command(flatten)]
    how: How,
}

#[derive(Clone, Debug, clap::Args)]
struct Increment {
    /// The key
    #[arg(value_name = "BUCKET/KEY")]
    name: Name,
    /// How much
    #[arg(value_name = "NUMBER", default_value_t = 1, allow_negative_numbers = true)]
    by: i64,
    /// Never send it again once it may count
    #[arg(long)]
    at_most_once: bool,
    #[command(flatten)]
    how: How,
}

#[derive(Clone, Debug, clap::Args)]
struct Elements {
    /// The key
    #[arg(value_name = "BUCKET/KEY")]
    name: Name,
    /// The elements
    #[arg(value_name = "TEXT", required = true)]
    elements: Vec<String>,
    #[command(flatten)]
    how: How,
}

#[derive(Clone, Debug, clap::Args)]
struct Assign {
    /// The key
    #[arg(value_name = "BUCKET/KEY")]
    name: Name,
    /// The text
    #[arg(value_name = "TEXT")]
    text: String,
    #[command(flatten)]
    how: How,
}

#[derive(Clone, Debug, clap::Args)]
struct Update {
    /// The key
    #[arg(value_name = "BUCKET/KEY")]
    name: Name,
    #[command(flatten)]
    pairs: Pairs,
    #[command(flatten)]
    how: How,
}

/// How a change is made.
#[derive(Clone, Debug, clap::Args)]
struct How {
    /// Remove exactly what this context covers, not what a read shows now
    #[arg(long)]
    context: Option<String>,
    #[command(flatten)]
    quorum: OfWrite,
    /// Repeat an earlier change under its key; one that removes, with its --context
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
}

/// Runs the command.
pub(crate) async fn run(app: &App, args: &Args) -> Done<Exit> {
    let timeout_ms = args.common.timeout_ms;
    let (name, how, change) = match &args.what {
        What::Get(args) => return get(app, args, timeout_ms).await,
        What::Delete(args) => return delete(app, args, timeout_ms).await,
        What::Increment(args) => (&args.name, &args.how, Change::increment(args.by)),
        What::Add(args) => (&args.name, &args.how, Change::add(&args.elements)),
        What::Remove(args) => (&args.name, &args.how, Change::remove(&args.elements)),
        What::Enable(args) => (&args.name, &args.how, Change::enable(true)),
        What::Disable(args) => (&args.name, &args.how, Change::enable(false)),
        What::Assign(args) => (&args.name, &args.how, Change::assign(&args.text)),
        What::Update(args) => (&args.name, &args.how, args.pairs.change()?),
    };
    let at_most_once = matches!(&args.what, What::Increment(args) if args.at_most_once);
    let sender = Sender { app, name, how, timeout_ms, at_most_once };
    let (applied, typed) = sender.send(&change).await?;
    show::changed(app, name, &applied, &typed)?;
    Ok(Exit::Ok)
}

async fn get(app: &App, args: &Get, timeout_ms: Option<u64>) -> Done<Exit> {
    let options = args.quorum.options(timeout_ms, false);
    let get = handle(app, &args.name).get().options(options);
    match patiently("waiting for the value", get.send()).await {
        Ok(typed) => show::value(app, &args.name, &typed)?,
        Err(error) => return Err(refused(app, &args.name, &error).into()),
    }
    Ok(Exit::Ok)
}

async fn delete(app: &App, args: &Key, timeout_ms: Option<u64>) -> Done<Exit> {
    let (handle, how) = (handle(app, &args.name), &args.how);
    let delete = match how.context()? {
        Some(context) => handle.delete_after(&context),
        None => handle.delete(),
    };
    let key = idempotency_key(how.idempotency_key.as_ref());
    let delete = delete.options(how.quorum.options(timeout_ms, false)).idempotency_key(&key);
    match patiently("waiting until it is stored", delete.send()).await {
        Ok(written) => show::deleted(app, &args.name, &written)?,
        Err(error) => {
            return Err(in_doubt(refused(app, &args.name, &error), &error, Some(&key)).into());
        }
    }
    Ok(Exit::Ok)
}

fn handle(app: &App, name: &Name) -> AnyTyped {
    app.bucket(name).typed(name.key.as_str())
}

impl How {
    fn context(&self) -> Done<Option<Context>> {
        let wrong = |_| {
            Failure::usage("--context: expected what `quorate typed get --json` shows as context")
        };
        Ok(self.context.as_deref().map(Context::parse).transpose().map_err(wrong)?)
    }
}

/// One change, and how it is sent.
struct Sender<'a> {
    app: &'a App,
    name: &'a Name,
    how: &'a How,
    timeout_ms: Option<u64>,
    at_most_once: bool,
}

impl Sender<'_> {
    async fn send(&self, change: &Change) -> Done<(Applied, Typed<AnyValue>)> {
        let (handle, given) = (handle(self.app, self.name), self.how.context()?);
        let options = self.how.quorum.options(self.timeout_ms, false);
        let mut round = 1;
        loop {
            // With another context it is another request.
            let key = idempotency_key(self.how.idempotency_key.as_ref());
            let context = match &given {
                Some(given) => Some(given.clone()),
                None if change.removes => Some(self.seen(&handle).await?),
                None => None,
            };
            let operation = handle.change(context.as_ref(), change.operation.clone());
            let operation = operation.options(options.clone()).idempotency_key(&key);
            let operation = if self.at_most_once { operation.at_most_once() } else { operation };
            let sent = patiently("waiting until it is stored", operation.send_and_read()).await;
            match sent {
                Ok(done) => return Ok(done),
                // The node that took it had not heard of all that the read showed.
                Err(Error::ContextAhead { outcome: Outcome::NotApplied, .. })
                    if given.is_none() && round < ROUNDS =>
                {
                    round += 1;
                }
                Err(error) => {
                    let failure = refused(self.app, self.name, &error);
                    return Err(in_doubt(failure, &error, (!change.removes).then_some(&key)).into());
                }
            }
        }
    }

    /// What a read shows now.
    async fn seen(&self, handle: &AnyTyped) -> Done<Context> {
        let mut get = handle.get();
        if let Some(timeout_ms) = self.timeout_ms {
            get = get.timeout_ms(timeout_ms);
        }
        match patiently("reading", get.send()).await {
            Ok(typed) => Ok(typed.context().clone()),
            Err(error) => Err(refused(self.app, self.name, &error).into()),
        }
    }
}

/// What an error of a typed value means.
fn refused(app: &App, name: &Name, error: &Error) -> Failure {
    let mut failure = app.failure(error);
    let bucket = &name.bucket;
    match error.problem().map(|problem| problem.name()) {
        Some("wrong_type") => {
            failure.advice = Some(format!(
                "`quorate bucket get {bucket}` shows its type; a bucket without keys gets one: \
                 `quorate bucket set {bucket} --type TYPE`"
            ));
        }
        Some("bad_body") => {
            failure.advice = Some(format!(
                "`quorate bucket get {bucket}` shows the bucket's type, and `quorate typed --help` what each \
                 type takes"
            ));
        }
        Some("bad_context") => {
            failure.advice = Some(format!(
                "read the key again: `quorate typed get {name} --json` shows its context"
            ));
        }
        Some("object_too_large") => {
            failure.advice = Some("remove elements, or use several keys".to_owned());
        }
        Some(_) | None => {}
    }
    failure
}

/// A change that may have been done can be repeated: under its key, unless a read comes before it, which may
/// show something else the next time.
fn in_doubt(mut failure: Failure, error: &Error, key: Option<&String>) -> Failure {
    if error.outcome() != Outcome::NotApplied {
        failure.advice = Some(match key {
            Some(key) => format!(
                "read the value; or repeat the same command with --idempotency-key {key}: it is done once \
                 while the cluster is whole"
            ),
            None => "read the value; to repeat the command does no harm".to_owned(),
        });
    }
    failure
}

/// `1 node`, and how many of them keep a hint.
fn held(acks: u32, hints: u32) -> String {
    let on = count(acks.into(), "node");
    match hints {
        0 => on,
        hints => format!("{on}, {hints} of them as a hint for a node that is down"),
    }
}

/// Reads `FIELD=TEXT`.
fn pair(text: &str) -> Result<Pair, String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => {
            Ok(Pair { field: name.to_owned(), text: value.to_owned() })
        }
        Some(_) | None => Err("expected FIELD=TEXT".to_owned()),
    }
}
