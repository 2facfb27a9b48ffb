//! Our language beside other people's: the cases of CEL's specification, cel-go, and RE2.
//!
//! What another side needs is fetched when a test runs; a test whose other side cannot be had says so in one line,
//! and only then passes without it.

mod suite;

use std::io::Write;

/// Says something that is seen although the test passes.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// The root of the repository.
fn repository() -> &'static std::path::Path {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}
