//! `quorate token`.

use std::path::PathBuf;

use serde_json::{Map, Value, json};

use crate::app::App;
use crate::args::Common;
use crate::exit::{Done, Exit, Failure};
use crate::out::{millis, note, safe};
use crate::refusal;
use crate::table::{Paint, Table, cell, painted};

/// Make, list or revoke tokens, or show what one allows.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  quorate token create root --allow admin --config node.toml   # the first one, signed with the cluster's key
  quorate token create shop --allow read,write,delete --buckets carts,user-* --expires-in 90d
  quorate token create alice --allow read,list --buckets notes --prefix alice/ --rate-per-s 50
  quorate token create mixed --allow look --scope '{\"actions\":[\"read\"],\"buckets\":[\"*\"]}'
  quorate token list
  quorate token revoke k3v7q2…             # in force within 5 s on every node that reaches the others
  quorate token whoami

Actions: read, write, delete, list, watch (of keys in --buckets); admin:buckets; look, metrics, admin:layout,
admin:auth, admin:backup, admin:repair; admin is all of them. Programs that find the nodes by themselves need
look. A token gives only what whoever makes it has. It is shown once: on standard output, alone on its line.

JSON: as the node answers: id, name, scopes, created_ms, expires_ms, rate_per_s, and token for a new one; of
the list: tokens.")]
pub struct Args {
    #[command(subcommand)]
    what: What,
    /// As --operator: sign with the cluster's key of this node's configuration
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum What {
    /// Make a token
    Create(Create),
    /// The tokens that were not revoked
    List,
    /// Revoke a token, for good
    Revoke {
        /// Its id
        id: String,
    },
    /// What the token of this command allows
    Whoami,
}

#[derive(Clone, Debug, clap::Args)]
struct Create {
    /// What it is for
    name: String,
    /// What it allows, separated by commas
    #[arg(long, value_name = "ACTIONS", value_delimiter = ',', required_unless_present = "scope")]
    allow: Vec<String>,
    /// In which buckets: names, or beginnings of names and a *
    #[arg(long, value_name = "BUCKETS", value_delimiter = ',', requires = "allow")]
    buckets: Vec<String>,
    /// On which keys: those that begin so
    #[arg(long, requires = "allow")]
    prefix: Option<String>,
    /// A whole scope as JSON: actions, buckets, prefix; may be given several times
    #[arg(long, value_name = "JSON")]
    scope: Vec<String>,
    /// When it ends, from now: a number and s, m, h or d
    #[arg(long, value_name = "TIME", value_parser = time_ms)]
    expires_in: Option<u64>,
    /// How many requests per second each node takes from it
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate_per_s: Option<u32>,
}

/// The arguments that all commands have, with this command's own way to say who the operator is.
pub(crate) fn common_of(args: &Args) -> Common {
    let operator = args.config.clone().or(args.common.operator.clone());
    Common { operator, ..args.common.clone() }
}

/// Runs the command.
pub(crate) async fn run(app: &App, args: &Args) -> Done<Exit> {
    match &args.what {
        What::Create(wanted) => create(app, wanted).await,
        What::List => list(app).await,
        What::Revoke { id } => {
            app.ask("revoking", app.nodes.admin().revoke_token(id)).await?;
            match app.out.json {
                true => app.out.json(&json!({"id": id, "revoked": true}))?,
                false => app.out.line(&format!("{} is revoked", safe(id)))?,
            }
            Ok(Exit::Ok)
        }
        What::Whoami => whoami(app).await,
    }
}

async fn create(app: &App, wanted: &Create) -> Done<Exit> {
    let mut scopes = Vec::new();
    if !wanted.allow.is_empty() {
        let mut scope = Map::new();
        scope.insert("actions".to_owned(), json!(wanted.allow));
        if !wanted.buckets.is_empty() {
            scope.insert("buckets".to_owned(), json!(wanted.buckets));
        }
        if let Some(prefix) = &wanted.prefix {
            scope.insert("prefix".to_owned(), json!(prefix));
        }
        scopes.push(Value::Object(scope));
    }
    for text in &wanted.scope {
        let scope = serde_json::from_str::<Value>(text);
        scopes.push(scope.map_err(|why| Failure::usage(format!("--scope: no JSON: {why}")))?);
    }
    let body = json!({
        "name": wanted.name,
        "scopes": scopes,
        "expires_in_ms": wanted.expires_in,
        "rate_per_s": wanted.rate_per_s,
    });
    let made = app.ask("making", app.nodes.admin().make_token(&body)).await?;
    let token = made["token"].as_str().ok_or_else(|| refusal::incomplete("/auth/tokens"))?;
    if app.out.json {
        app.out.json(&made)?;
        return Ok(Exit::Ok);
    }
    app.out.line(token)?;
    let id = safe(made["id"].as_str().unwrap_or("?"));
    note(&format!("made {id}; the token is shown this once: keep it, and set QUORATE_TOKEN to it"));
    Ok(Exit::Ok)
}

async fn list(app: &App) -> Done<Exit> {
    let told = app.ask("asking", app.nodes.admin().tokens()).await?;
    let tokens = told["tokens"].as_array().ok_or_else(|| refusal::incomplete("/auth/tokens"))?;
    if app.out.json {
        app.out.json(&told)?;
        return Ok(Exit::Ok);
    }
    let mut table = Table::new(&["id", "name", "allows", "expires", "made by"]);
    for token in tokens {
        let text = |name: &str| safe(token[name].as_str().unwrap_or("?"));
        let expires = expires(token);
        let expires = match token["is_expired"] == true {
            true => painted(expires, Paint::Dim),
            false => cell(expires),
        };
        let allows = scopes(&token["scopes"]);
        table.row(vec![
            cell(text("id")),
            cell(text("name")),
            cell(allows),
            expires,
            cell(text("created_by")),
        ]);
    }
    app.out.table(&table)?;
    Ok(Exit::Ok)
}

async fn whoami(app: &App) -> Done<Exit> {
    let told = app.ask("asking", app.nodes.admin().whoami()).await?;
    if app.out.json {
        app.out.json(&told)?;
        return Ok(Exit::Ok);
    }
    let text = |name: &str| safe(told[name].as_str().unwrap_or("?"));
    match told["who"].as_str() {
        Some("token" | "subject") => {
            app.out.line(&format!(
                "{} ({}), expires: {}",
                text("name"),
                text("id"),
                expires(&told)
            ))?;
            app.out.line(&format!("allows {}", scopes(&told["scopes"])))?;
        }
        Some("operator") => app.out.line("the operator: allows everything, for some minutes")?,
        Some(_) => app.out.line("the node does not check tokens: everyone may do everything")?,
        None => return Err(refusal::incomplete("/auth/whoami")),
    }
    Ok(Exit::Ok)
}

fn expires(token: &Value) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = now.map_or(0, |it| u64::try_from(it.as_millis()).unwrap_or(u64::MAX));
    match token["expires_ms"].as_u64() {
        None => "never".to_owned(),
        Some(at) if at <= now => "expired".to_owned(),
        Some(at) => format!("in {}", millis(at - now)),
    }
}

/// Scopes in short: `read,list of notes/alice/; look`.
fn scopes(scopes: &Value) -> String {
    let words = |list: &Value| {
        let words: Vec<&str> =
            list.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        safe(&words.join(","))
    };
    let scope = |scope: &Value| {
        let (actions, buckets) = (words(&scope["actions"]), words(&scope["buckets"]));
        let prefix =
            scope["prefix"].as_str().map(|it| format!("/{}", safe(it))).unwrap_or_default();
        if buckets.is_empty() { actions } else { format!("{actions} of {buckets}{prefix}") }
    };
    scopes.as_array().into_iter().flatten().map(scope).collect::<Vec<_>>().join("; ")
}

/// A time such as `90d`, in milliseconds.
fn time_ms(text: &str) -> Result<u64, String> {
    let units = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
    let read = || {
        let (unit, ms) = units.into_iter().find(|(unit, _)| {
            text.strip_suffix(unit).is_some_and(|it| it.bytes().all(|b| b.is_ascii_digit()))
        })?;
        text.strip_suffix(unit)?.parse::<u64>().ok()?.checked_mul(ms).filter(|ms| *ms > 0)
    };
    read().ok_or_else(|| "expected a number and a unit, such as 90d, 12h, 30m or 45s".to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit() {
        assert_eq!(time_ms("90d").unwrap(), 90 * 86_400_000);
        assert_eq!(time_ms("500ms").unwrap(), 500);
        assert_eq!(time_ms("5m").unwrap(), 300_000);
        for bad in ["", "d", "5", "-5d", "5w", "0s", "1.5h", "99999999999999999999d"] {
            assert!(time_ms(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn scopes_are_told_in_short() {
        let told = json!([
            {"actions": ["read", "list"], "buckets": ["notes"], "prefix": "alice/"},
            {"actions": ["look"], "buckets": [], "prefix": null},
        ]);
        assert_eq!(scopes(&told), "read,list of notes/alice/; look");
    }
}
