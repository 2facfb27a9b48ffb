//! The configuration file: which CAs each pool has.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{CaState, PoolsError};
use crate::ca::{CaFiles, KeyPlace, TokenKey};
use crate::grants::PoolName;

/// What the file says. An unknown key is refused, so that a misspelt one is not silently without effect.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    pools: BTreeMap<String, PoolDocument>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PoolDocument {
    cas: Vec<CaDocument>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct CaDocument {
    certificate: PathBuf,
    key: Option<PathBuf>,
    pkcs11: Option<TokenKey>,
    passphrase_file: Option<PathBuf>,
    state: CaState,
}

/// The pools of a configuration file, none of their files opened yet.
#[derive(Debug)]
pub(super) struct Plan {
    pub pools: Vec<(PoolName, Vec<(CaFiles, CaState)>)>,
}

impl Plan {
    /// Reads a file of YAML or JSON; paths in it begin at its directory.
    pub fn read(path: &Path) -> Result<Plan, PoolsError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| PoolsError::Read { path: path.to_owned(), source })?;
        let wrong = |detail: String| PoolsError::Configuration { path: path.to_owned(), detail };
        let value =
            outgate_policy::document::parse_text(&text).map_err(|errors| wrong(errors.to_string()))?;
        let document: Document = serde_path_to_error::deserialize(&value).map_err(|error| {
            let (place, detail) = (error.path().to_string(), error.inner().to_string());
            let remedy =
                if detail.starts_with("unknown field") { "; remove it or correct its name" } else { "" };
            wrong(if place == "." {
                format!("{detail}{remedy}")
            } else {
                format!("{place}: {detail}{remedy}")
            })
        })?;
        if document.pools.is_empty() {
            return Err(wrong("pools: there is none; name at least one".to_owned()));
        }
        let directory = path.parent().unwrap_or(Path::new(""));
        let mut pools = Vec::new();
        for (name, pool) in document.pools {
            let wrong = |detail: String| wrong(format!("pools.{name}{detail}"));
            let parsed = PoolName::parse(&name).map_err(|error| wrong(format!(": {error}")))?;
            let active = pool.cas.iter().filter(|ca| ca.state == CaState::Active).count();
            if active != 1 {
                return Err(wrong(format!(
                    ".cas: {active} are active; exactly one must be, for it signs (the next is `standby`, the one before `draining`)"
                )));
            }
            let mut members: Vec<(CaFiles, CaState)> = Vec::new();
            for (place, ca) in pool.cas.into_iter().enumerate() {
                let key = match (ca.key, ca.pkcs11) {
                    (Some(path), None) => KeyPlace::File(directory.join(path)),
                    (None, Some(token)) => KeyPlace::Token(token),
                    _ => return Err(wrong(format!(".cas[{place}]: give either `key` or `pkcs11`"))),
                };
                let files = CaFiles {
                    certificate: directory.join(ca.certificate),
                    key,
                    passphrase: ca.passphrase_file.map(|file| directory.join(file)),
                };
                if members
                    .iter()
                    .any(|(other, _)| other.certificate == files.certificate && other.key == files.key)
                {
                    return Err(wrong(format!(
                        ".cas[{place}]: the same files as a CA before it; remove one of them"
                    )));
                }
                members.push((files, ca.state));
            }
            pools.push((parsed, members));
        }
        Ok(Plan { pools })
    }
}
