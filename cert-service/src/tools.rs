//! What an operator runs beside the service: `cert-service ca …` and `cert-service mint --dry-run`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use time::OffsetDateTime;

use crate::ca::{self, Ca, CaError, timestamp};
use crate::grants::PoolName;
use crate::leaf;
use crate::options::AuthorityArgs;
use crate::pools::{Authorities, Pools, PoolsError, Source};
use outgate_policy::HostName;

/// The commands.
#[derive(Debug, Parser)]
#[command(name = "cert-service", version)]
pub enum Tool {
    /// Makes, shows and rotates CAs.
    #[command(subcommand)]
    Ca(CaTool),
    /// Mints a certificate as the service would, prints what it says, and checks it.
    Mint(MintArgs),
}

/// What to do with a CA.
#[derive(Debug, Subcommand)]
pub enum CaTool {
    /// Creates a development CA: DIR/ca.pem for clients, DIR/ca-key.pem for us.
    Init {
        /// The directory, as for --state.
        directory: PathBuf,
    },
    /// Says of each CA what it is, what it does, and what an operator should know.
    Show(SourceArgs),
    /// Takes the development CA of a directory one step further: a next one is published; it signs; the old one goes.
    Rotate {
        /// The directory, as for --state; a service that runs on it follows.
        directory: PathBuf,
    },
}

/// Where the CAs are.
#[derive(Debug, Args)]
pub struct SourceArgs {
    /// The directory of a development CA.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["config", "ca"], required_unless_present_any = ["config", "ca"])]
    state: Option<PathBuf>,
    /// Which CAs, if they are of another kind.
    #[command(flatten)]
    authorities: AuthorityArgs,
}

/// What to mint.
#[derive(Debug, Args)]
pub struct MintArgs {
    /// The host.
    name: String,
    /// Keep nothing: the certificate is printed, its key is not. There is no other way to mint by hand.
    #[arg(long, required = true)]
    dry_run: bool,
    /// The pool that signs [default: the first].
    #[arg(long, value_name = "NAME")]
    pool: Option<PoolName>,
    /// Where the CAs are.
    #[command(flatten)]
    source: SourceArgs,
}

/// Why a command did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// The CAs cannot be used.
    #[error(transparent)]
    Pools(#[from] PoolsError),
    /// The CA cannot be made.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// There is one already.
    #[error("`{}` exists: choose another directory, or `cert-service ca rotate`", .0.display())]
    Exists(PathBuf),
    /// There is none.
    #[error("`{}` does not exist: make it with `cert-service ca init`", .0.display())]
    Missing(PathBuf),
    /// No such pool.
    #[error("there is no pool `{0}`")]
    NoPool(String),
    /// The name is none that anything is minted for.
    #[error(transparent)]
    Name(#[from] outgate_policy::HostError),
    /// It cannot be minted.
    #[error(transparent)]
    Sign(#[from] ca::key::SignError),
    /// The leaf is not what it should be.
    #[error("the certificate is not right: {0}")]
    Lint(String),
}

impl Tool {
    /// The command, if the command line has one; else it is the service's.
    pub fn from_command_line() -> Option<Tool> {
        let first = std::env::args_os().nth(1)?;
        (first == "ca" || first == "mint").then(Tool::parse)
    }

    /// Does it; returns what to print.
    pub fn run(&self, now: OffsetDateTime) -> Result<String, ToolError> {
        match self {
            Tool::Ca(CaTool::Init { directory }) => init(directory, now),
            Tool::Ca(CaTool::Show(source)) => Ok(show(&source.load(now)?)),
            Tool::Ca(CaTool::Rotate { directory }) => rotate(directory, now),
            Tool::Mint(args) => mint(args, now),
        }
    }
}

impl SourceArgs {
    fn load(&self, now: OffsetDateTime) -> Result<Pools, ToolError> {
        let authorities = self.authorities.authorities();
        let state = self.state.clone().unwrap_or_default();
        // To look must not create one.
        if matches!(authorities, Authorities::Development) {
            existing(&state)?;
        }
        Ok(Source { authorities, names: Default::default(), state }.load(now)?)
    }
}

fn existing(directory: &Path) -> Result<PathBuf, ToolError> {
    let key = directory.join(ca::KEY_FILE);
    if key.exists() { Ok(key) } else { Err(ToolError::Missing(key)) }
}

fn init(directory: &Path, now: OffsetDateTime) -> Result<String, ToolError> {
    let ca = Ca::development(directory, now)?;
    if !ca.created() {
        return Err(ToolError::Exists(directory.join(ca::KEY_FILE)));
    }
    let trust = directory.join(ca::TRUST_FILE);
    Ok(format!(
        "{}\nsha256 {}\nclients must trust {}\n",
        ca.subject_text(),
        ca.fingerprint(),
        trust.display()
    ))
}

fn show(pools: &Pools) -> String {
    let mut text = String::new();
    for (name, pool) in pools.all() {
        for member in pool.members() {
            let ca = member.ca;
            for (what, value) in [
                ("pool", if name == "*" { "any" } else { name }),
                ("state", member.state.as_str()),
                ("subject", ca.subject_text()),
                ("id", ca.id()),
                ("sha256", ca.fingerprint()),
                ("key", &ca.key().kind().to_string()),
                ("not before", &timestamp(ca.not_before())),
                ("not after", &timestamp(ca.not_after())),
            ] {
                text.push_str(&format!("{what:<10} {value}\n"));
            }
            text.push('\n');
        }
    }
    text.extend(pools.warnings().iter().map(|warning| format!("warning: {warning}\n")));
    text
}

/// One step: each is safe by itself, and the next one waits until clients have followed.
fn rotate(directory: &Path, now: OffsetDateTime) -> Result<String, ToolError> {
    let key = existing(directory)?;
    let [next, draining] = [ca::NEXT_KEY_FILE, ca::DRAINING_KEY_FILE].map(|name| directory.join(name));
    let failed = |action, path: &Path| {
        let path = path.to_owned();
        move |source| CaError::File { action, path, source }
    };
    let said = if draining.exists() {
        fs::remove_file(&draining).map_err(failed("remove", &draining))?;
        "retired: the old CA is gone; certificates that it signed are taken back\nrotate again to begin anew\n"
    } else if next.exists() {
        // Linked, then replaced: at no moment is there no key.
        fs::hard_link(&key, &draining).map_err(failed("create", &draining))?;
        fs::rename(&next, &key).map_err(failed("replace", &key))?;
        "active: the new CA signs, and certificates of the old one are replaced\nrotate again once none is in use (cert_service_ca_leases)\n"
    } else {
        ca::create_development(&next, now)?;
        "standby: a new CA is in ca.pem beside the old one, and signs nothing yet\nhave clients trust ca.pem, then rotate again\n"
    };
    // A service that runs here does the same; without one, clients must find the file right nevertheless.
    let source = Source {
        authorities: Authorities::Development,
        names: Default::default(),
        state: directory.to_owned(),
    };
    let pools = source.load(now)?;
    source.publish(&pools)?;
    Ok(format!("{said}\n{}", show(&pools)))
}

fn mint(args: &MintArgs, now: OffsetDateTime) -> Result<String, ToolError> {
    const DAY: Duration = Duration::from_secs(24 * 3600);
    let host = HostName::parse_for_certificate(&args.name)?;
    let pools = args.source.load(now)?;
    let pool = match &args.pool {
        Some(name) => pools.get(name).ok_or_else(|| ToolError::NoPool(name.to_string()))?,
        None => pools.first().ok_or_else(|| ToolError::NoPool("main".to_owned()))?,
    };
    let ca = pool.active();
    let leaf = leaf::mint(ca, &host, DAY, now)?;
    leaf::lint(ca, &host, &leaf).map_err(ToolError::Lint)?;
    let kind = if host.ip().is_some() { "iPAddress" } else { "dNSName" };
    Ok(format!(
        "{}\nname       {kind} {host}\nissuer     {}\nserial     {}\nsha256     {}\nnot before {}\nnot after  {}\nchecked    {}\n",
        leaf.chain_pem.trim_end(),
        ca.subject_text(),
        leaf.serial.to_hex(),
        leaf.sha256(),
        timestamp(leaf.not_before),
        timestamp(leaf.not_after),
        leaf::LINTED,
    ))
}
