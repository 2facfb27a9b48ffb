//! stub
/// stub
#[derive(clap::Args, Debug)]
pub struct ExplainArgs {}
/// stub
pub fn run(_a: &ExplainArgs) -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}
