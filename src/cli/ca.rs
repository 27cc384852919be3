//! `quorate ca`: an authority for the cluster, and certificates of nodes and clients.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use quorate_protocol::name::NodeId;
use serde_json::{Value, json};

use crate::tls::authority::{Authority, CERT_FILE, KEY_FILE, Made, Subject};
use crate::tls::certificate::Facts;
use crate::tls::files::read_file;
use crate::tls::load::certificates;
use crate::tls::private_file::{PUBLIC, SECRET, create, make_dir, replace};

/// `quorate ca`.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Ca {
    /// Make an authority: a certificate (ca.pem), which nodes and clients are given to know whom to
    /// believe, and a key (ca.key), which signs. Keep the key off the nodes.
    Init {
        /// Where; made if it is not there. Nothing that is there is overwritten.
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// How long it is valid.
        #[arg(long, default_value_t = 3650, value_parser = clap::value_parser!(u32).range(1..=36_500))]
        days: u32,
    },
    /// Make the certificate of a node, for both of its ports, or of a client.
    Issue(Issue),
    /// Make certificates again in place, of the same names: longer valid, or signed by another authority. If
    /// anything fails, what was there stays.
    Renew(Renew),
}

/// `quorate ca issue`.
#[derive(Clone, Debug, clap::Args)]
pub struct Issue {
    /// The directory of the authority
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// The name of the node
    #[arg(long, value_name = "NAME", value_parser = node_name, required_unless_present = "client",
          conflicts_with = "client")]
    node: Option<NodeId>,
    /// A host or an IP address at which clients reach the node; once for each
    #[arg(
        long,
        value_name = "HOST",
        required_unless_present = "client",
        conflicts_with = "client"
    )]
    host: Vec<String>,
    /// The name of a client, instead of a node's
    #[arg(long, value_name = "NAME")]
    client: Option<String>,
    /// Where to put NAME.pem and NAME.key
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// How long it is valid
    #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u32).range(1..=3650))]
    days: u32,
}

fn node_name(text: &str) -> Result<NodeId, String> {
    NodeId::parse(text).map_err(|error| error.to_string())
}

impl Issue {
    /// A node's, into the directory of the authority.
    pub(crate) fn of_node(node: NodeId, hosts: &[&str], dir: &Path, days: u32) -> Self {
        let host = hosts.iter().map(|host| (*host).to_owned()).collect();
        let (dir, out) = (dir.to_owned(), dir.to_owned());
        Self { dir, node: Some(node), host, client: None, out, days }
    }
}

/// `quorate ca renew`.
#[derive(Clone, Debug, clap::Args)]
pub struct Renew {
    /// The directory of the authority that signs
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// The certificates, each with its key beside it (NAME.pem, NAME.key)
    #[arg(required = true, value_name = "FILE")]
    certs: Vec<PathBuf>,
    /// How long they are valid
    #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u32).range(1..=3650))]
    days: u32,
    /// Make new keys too
    #[arg(long)]
    new_key: bool,
}

/// Carries it out. Returns what there is to say, as JSON or for people.
///
/// # Errors
/// What is wrong, and what to do.
pub fn run(asked: &Ca, as_json: bool) -> Result<String, String> {
    let made = match asked {
        Ca::Init { dir, days } => vec![init(dir, *days)?],
        Ca::Issue(asked) => vec![issue(asked)?],
        Ca::Renew(asked) => renew(asked)?,
    };
    Ok(match as_json {
        true => json!({"certificates": made}).to_string(),
        false => made.iter().map(in_words).collect::<Vec<_>>().join("\n"),
    })
}

fn init(dir: &Path, days: u32) -> Result<Value, String> {
    let (cert, key) = (dir.join(CERT_FILE), dir.join(KEY_FILE));
    for file in [&cert, &key] {
        if file.symlink_metadata().is_ok() {
            return Err(format!(
                "{} is there already: an authority is never overwritten; use another directory",
                file.display()
            ));
        }
    }
    let (_, made) = Authority::new(days)?;
    write(&made, (&cert, &key))?;
    shown((&cert, &key))
}

fn issue(asked: &Issue) -> Result<Value, String> {
    let authority = Authority::load(&asked.dir)?;
    let subject = match (&asked.node, &asked.client) {
        (Some(node), _) => Subject::Node(*node, asked.host.clone()),
        (None, Some(client)) => Subject::Client(client.clone()),
        (None, None) => return Err("give --node or --client".to_owned()),
    };
    let name = match &subject {
        Subject::Node(node, _) => node.to_string(),
        Subject::Client(name) => name.clone(),
    };
    let made = authority.issue(&subject, asked.days)?;
    let (cert, key) =
        (asked.out.join(format!("{name}.pem")), asked.out.join(format!("{name}.key")));
    for file in [&cert, &key] {
        if file.symlink_metadata().is_ok() {
            return Err(format!(
                "{} is there already: `quorate ca renew` replaces a certificate",
                file.display()
            ));
        }
    }
    write(&made, (&cert, &key))?;
    shown((&cert, &key))
}

/// Makes both files, or neither.
fn write(made: &Made, (cert, key): (&Path, &Path)) -> Result<(), String> {
    let named = |path: &Path, error: std::io::Error| {
        let is_there = error.kind() == ErrorKind::AlreadyExists;
        let why = if is_there { "is there already".to_owned() } else { error.to_string() };
        format!("{}: {why}", path.display())
    };
    let dir = cert.parent().unwrap_or(Path::new("."));
    make_dir(dir).map_err(|error| named(dir, error))?;
    create(key, SECRET, made.key.as_bytes()).map_err(|error| named(key, error))?;
    create(cert, PUBLIC, made.cert.as_bytes()).map_err(|error| {
        drop(fs::remove_file(key)); // it was made just now, and is of no use alone
        named(cert, error)
    })
}

/// All are made before the first is replaced.
fn renew(asked: &Renew) -> Result<Vec<Value>, String> {
    let authority = Authority::load(&asked.dir)?;
    let again = |cert: &PathBuf| -> Result<(PathBuf, PathBuf, Made), String> {
        let key = cert.with_extension("key");
        let named = |path: &Path, why: String| format!("{}: {why}", path.display());
        let bytes = read_file(cert, false).map_err(|why| named(cert, why))?;
        let subject = certificates(&bytes, 16)
            .and_then(|chain| Facts::of(chain.first().ok_or("there is none")?))
            .and_then(|facts| Subject::of(&facts))
            .map_err(|why| named(cert, why))?;
        if asked.new_key {
            let made = authority.issue(&subject, asked.days).map_err(|why| named(cert, why))?;
            return Ok((cert.clone(), key, made));
        }
        let secret = read_file(&key, true).map_err(|why| named(&key, why))?;
        let secret = String::from_utf8(secret).map_err(|_| named(&key, "not PEM".to_owned()))?;
        let made = authority.issue_again(&subject, asked.days, &secret);
        let made = Made { cert: made.map_err(|why| named(cert, why))?, key: secret };
        Ok((cert.clone(), key, made))
    };
    let all = asked.certs.iter().map(again).collect::<Result<Vec<_>, _>>()?;
    let mut told = Vec::new();
    for (cert, key, made) in &all {
        let named =
            |path: &Path, error| format!("{}: {error}; nothing of it was changed", path.display());
        if asked.new_key {
            let old = fs::read(key).map_err(|error| named(key, error))?;
            replace(key, SECRET, made.key.as_bytes()).map_err(|error| named(key, error))?;
            if let Err(error) = replace(cert, PUBLIC, made.cert.as_bytes()) {
                drop(replace(key, SECRET, &old)); // back to the pair that was there
                return Err(named(cert, error));
            }
        } else {
            replace(cert, PUBLIC, made.cert.as_bytes()).map_err(|error| named(cert, error))?;
        }
        told.push(shown((cert, key))?);
    }
    Ok(told)
}

/// What is in the files now.
fn shown((cert, key): (&Path, &Path)) -> Result<Value, String> {
    let chain = read_file(cert, false).and_then(|bytes| certificates(&bytes, 16));
    let facts = chain.and_then(|chain| Facts::of(chain.first().ok_or("there is none")?));
    let facts = facts.map_err(|why| format!("{}: {why}", cert.display()))?;
    let addresses = facts.addresses.iter().map(ToString::to_string);
    let names: Vec<String> = facts.uris.into_iter().chain(facts.hosts).chain(addresses).collect();
    let kind = match (facts.is_authority, facts.node.is_some()) {
        (true, _) => "authority",
        (false, true) => "node",
        (false, false) => "client",
    };
    Ok(json!({
        "kind": kind,
        "cert": cert.display().to_string(),
        "key": key.display().to_string(),
        "names": names,
        "expires_ms": facts.expires.0,
    }))
}

fn in_words(made: &Value) -> String {
    let text = |field: &str| made[field].as_str().unwrap_or_default();
    let names: Vec<&str> =
        made["names"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let expires = std::time::Duration::from_millis(made["expires_ms"].as_u64().unwrap_or_default());
    let expires = humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + expires);
    let mut lines = format!(
        "{:<12} {}\n{:<12} {} (readable for you alone)\n",
        text("kind"),
        text("cert"),
        "key",
        text("key")
    );
    if !names.is_empty() {
        lines += &format!("{:<12} {}\n", "names", names.join(" "));
    }
    lines + &format!("{:<12} {expires}\n", "expires")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
