//! Where a node's settings come from: a TOML file, overlaid by `QUORATE_*` environment variables
//! (`environment`).

mod environment;

use std::ffi::OsString;
use std::path::Path;

use quorate_engine::config::checks::is_reached_at;
pub use quorate_engine::config::*;
use quorate_engine::membership::files::RECORD_FILE;
use quorate_protocol::hex::hex;

use self::environment::{Environment, Setting};

/// Reads a file, overlays the environment and validates every value.
///
/// # Errors
/// [`ConfigError`] that names the file, the variable or the key, and the accepted values.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    load_with(path, std::env::vars_os())
}

/// Likewise, with the given environment.
///
/// # Errors
/// [`ConfigError`].
pub fn load_with(
    path: &Path,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Config, ConfigError> {
    let environment = Environment::of(variables, known)?;
    let all = |_: &Setting| true;
    let mut config = build(path, &environment, all).map_err(|error| {
        let reason = error.to_string();
        // Blame the variable without which the configuration is valid, or which the error text
        // names.
        let is_to_blame = |setting: &&Setting| {
            let others = |other: &Setting| other.key != setting.key;
            reason.contains(&format!("`{}`", setting.key))
                || build(path, &environment, others).is_ok()
        };
        match environment.settings.iter().find(is_to_blame) {
            Some(setting) => ConfigError::Variable { name: setting.variable.clone(), reason },
            None => ConfigError::File { path: path.display().to_string(), reason },
        }
    })?;
    config.foreign_variables = environment.foreign.clone();
    let Err(error) = check(&config) else { return Ok(config) };
    let variable = match &error {
        ConfigError::Value { key, .. } => environment.variable(key),
        ConfigError::Origin { key, .. } => environment.variable(key),
        ConfigError::File { .. } | ConfigError::Variable { .. } | ConfigError::Layout(_) => None,
    };
    // Some checks look at several settings, or name a whole table.
    let is_valid_without = |setting: &&Setting| {
        let others = |other: &Setting| other.key != setting.key;
        build(path, &environment, others).is_ok_and(|config| check(&config).is_ok())
    };
    let to_blame = || environment.settings.iter().find(is_valid_without);
    let variable = variable.or_else(|| Some(to_blame()?.variable.as_str()));
    Err(match variable {
        Some(name) => ConfigError::Variable { name: name.to_owned(), reason: error.to_string() },
        None => error,
    })
}

/// Whether every value is valid.
fn check(config: &Config) -> Result<(), ConfigError> {
    config.check()?;
    // A node that has a record takes its place from that.
    if !config.data_dir.join(RECORD_FILE).exists() {
        config.origin()?;
    }
    let endpoint = &config.otlp.endpoint;
    if !endpoint.is_empty() && !is_bare(endpoint, "http") {
        return Err(ConfigError::Value {
            key: "otlp.endpoint",
            allowed: "empty, or a URL such as http://127.0.0.1:4318".to_owned(),
            value: format!("{endpoint:?}"),
        });
    }
    let keys = &config.jwt.keys;
    if config.jwt.is_at_url() && !is_bare(keys, "https") {
        return Err(ConfigError::Value {
            key: "jwt.keys",
            allowed: "empty, the path of a file, or an https URL".to_owned(),
            value: format!("{keys:?}"),
        });
    }
    crate::log::filter(&config.log.level).map(drop).map_err(|error| ConfigError::Value {
        key: "log.level",
        allowed: "levels, such as info or info,quorate=debug".to_owned(),
        value: format!("{:?}: {error}", config.log.level),
    })
}

/// Whether this is a URL of a scheme with a host, and neither user nor query: these would end up in the log.
fn is_bare(url: &str, scheme: &str) -> bool {
    reqwest::Url::parse(url).is_ok_and(|url| {
        let is_bare = url.username().is_empty() && url.password().is_none();
        url.scheme() == scheme && url.has_host() && is_bare && url.query().is_none()
    })
}

/// Suspicious settings, as seen from this machine. The node may still run with them, as
/// addresses can be translated in between and directories created later; but most often it is a
/// mistake.
pub fn oddities(config: &Config) -> Vec<String> {
    let mut odd = Vec::new();
    let own = config.layout_nodes().iter().find(|node| node.name == config.node);
    if let Some(own) = own.filter(|own| !is_reached_at(config.peer_addr, &own.peer_addr)) {
        odd.push(format!(
            "peer_addr is {}, but the layout sends the peers of {} to {}",
            config.peer_addr, config.node, own.peer_addr
        ));
    }
    let parent = match config.data_dir.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => &config.data_dir,
    };
    if !config.data_dir.is_dir() && !parent.is_dir() {
        let shown = config.data_dir.display();
        odd.push(format!("data_dir {shown}: {} is not a directory", parent.display()));
    }
    odd
}

/// Whether everybody on this machine can read a configuration, and thereby the cluster's keys, in words.
pub fn openness(path: &Path) -> Option<String> {
    let shown = path.display();
    crate::tls::files::is_world_readable(path).then(|| {
        format!("{shown} holds cluster_keys, and everybody can read it: chmod o-rwx {shown}")
    })
}

/// Builds the configuration from the file and the environment settings that `which` selects.
fn build(
    path: &Path,
    environment: &Environment,
    which: impl Fn(&Setting) -> bool,
) -> Result<Config, config::ConfigError> {
    let file = config::File::from(path).format(config::FileFormat::Toml);
    let mut builder = config::Config::builder().add_source(file);
    for setting in environment.settings.iter().filter(|setting| which(setting)) {
        // As text: each setting parses it by its own type.
        builder = match setting.key.as_str() {
            "cluster_keys" | "join" | "client_tls.ca" | "peer_tls.ca" | "jwt.audience"
            | "jwt.algorithms" => {
                let items: Vec<&str> = setting.text.split(',').map(str::trim).collect();
                builder.set_override(&setting.key, items)?
            }
            key => builder.set_override(key, setting.text.as_str())?,
        };
    }
    builder.build()?.try_deserialize()
}

/// A new random key for `cluster_keys`: 64 hexadecimal digits.
pub fn new_key() -> String {
    hex(&rand::random::<[u8; 32]>())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
