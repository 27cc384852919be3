//! Settings from the environment: `QUORATE_` and the key in capitals, a dot as two underscores.
//!
//! Other software uses that prefix too: Kubernetes sets `QUORATE_SERVICE_HOST` in every container
//! next to a service named `quorate`. A variable that matches no setting is therefore ignored and
//! reported, unless it names one of our tables: then it is a misspelt setting. Values are text,
//! parsed by the type of the setting: an id of `007` stays `007`. The variables of the command line
//! are none of the node's, and passed over in silence.

use std::ffi::OsString;

use quorate_engine::config::{ConfigError, Known};

const PREFIX: &str = "QUORATE_";
/// Variables of the commands that talk to a running cluster (`crates/cli`).
const OF_COMMAND_LINE: [&str; 5] =
    ["QUORATE_URL", "QUORATE_TOKEN", "QUORATE_CA", "QUORATE_CERT", "QUORATE_KEY"];

/// The parsed environment.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Environment {
    /// The settings found.
    pub(crate) settings: Vec<Setting>,
    /// Variables with the prefix that match no setting, sorted.
    pub(crate) foreign: Vec<String>,
}

/// One variable that is a setting.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    /// The name of the variable.
    pub(crate) variable: String,
    /// The key, with dots.
    pub(crate) key: String,
    /// Its value.
    pub(crate) text: String,
}

impl Environment {
    /// Splits variables into settings and foreign ones.
    ///
    /// # Errors
    /// [`ConfigError::Variable`] if one names a setting that does not exist, or is not UTF-8.
    pub(crate) fn of(
        variables: impl IntoIterator<Item = (OsString, OsString)>,
        known: impl Fn(&str) -> Known,
    ) -> Result<Self, ConfigError> {
        let mut environment = Self::default();
        for (name, text) in variables {
            let Some(name) = name.to_str() else { continue };
            let upper = name.to_ascii_uppercase();
            if OF_COMMAND_LINE.contains(&name) {
                continue;
            }
            let Some(key) = upper.strip_prefix(PREFIX) else { continue };
            let key = key.to_ascii_lowercase().replace("__", ".");
            let wrong = |reason: String| ConfigError::Variable { name: name.to_owned(), reason };
            match known(&key) {
                Known::Setting => {
                    let text = text.into_string();
                    let text = text.map_err(|_| wrong("is not UTF-8".to_owned()))?;
                    environment.settings.push(Setting { variable: name.to_owned(), key, text });
                }
                Known::OnlyInFile => return Err(wrong(format!("{key} can only be in the file"))),
                Known::NoneOfTable(table) => {
                    return Err(wrong(format!("[{table}] has no setting {key}")));
                }
                Known::Foreign => environment.foreign.push(name.to_owned()),
            }
        }
        environment.settings.sort_unstable_by(|a, b| a.variable.cmp(&b.variable));
        environment.foreign.sort_unstable();
        Ok(environment)
    }

    /// The variable that set a key, if any.
    pub(crate) fn variable(&self, key: &str) -> Option<&str> {
        let setting = self.settings.iter().find(|setting| setting.key == key);
        setting.map(|setting| setting.variable.as_str())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::known;

    fn of(variables: &[(&str, &str)]) -> Result<Environment, ConfigError> {
        let pairs =
            variables.iter().map(|(name, text)| (OsString::from(name), OsString::from(text)));
        Environment::of(pairs, known)
    }

    #[test]
    fn what_orchestrators_inject_is_passed_over() {
        let foreign = [
            "QUORATE_PORT",
            "QUORATE_PORT_7401_TCP_ADDR",
            "QUORATE_SERVICE_HOST",
            "QUORATE_SERVICE_PORT_CLIENT",
            "QUORATE_STORAGE_PORT",
            "QUORATE_STORAGE",
            "QUORATE_",
        ];
        let mut variables: Vec<_> = foreign.iter().map(|name| (*name, "tcp://10.0.0.1")).collect();
        variables.extend([("PATH", "/bin"), ("QUORATE", "x"), ("QUORATE_CLUSTER_ID", "007")]);
        let found = of(&variables).unwrap();
        let mut sorted = foreign.map(str::to_owned);
        sorted.sort_unstable();
        assert_eq!(found.foreign, sorted);
        let setting = &found.settings[..];
        assert_eq!((setting.len(), setting[0].text.as_str()), (1, "007"));
        assert_eq!(found.variable("cluster_id"), Some("QUORATE_CLUSTER_ID"));
    }

    #[test]
    fn the_variables_of_the_command_line_are_left_alone() {
        let found = of(&[("QUORATE_URL", "http://a:1"), ("QUORATE_TOKEN", "s")]).unwrap();
        assert_eq!(found, Environment::default());
    }

    #[test]
    fn a_setting_that_is_meant_and_misspelt_is_refused() {
        let wrong = |name: &str| match of(&[(name, "1")]) {
            Err(error @ ConfigError::Variable { .. }) => {
                let text = error.to_string();
                assert!(text.contains(name), "{text}");
            }
            other => panic!("{name}: {other:?}"),
        };
        wrong("QUORATE_LIMITS__VALUE_BYTE_MAX");
        wrong("QUORATE_LAYOUT__NODES");
        wrong("QUORATE_LAYOUT__NODES__NAME");
        let good = of(&[("QUORATE_LIMITS__VALUE_BYTES_MAX", "1"), ("quorate_node", "n1")]).unwrap();
        let keys: Vec<_> = good.settings.iter().map(|setting| setting.key.as_str()).collect();
        assert_eq!(keys, ["limits.value_bytes_max", "node"]);
    }
}
