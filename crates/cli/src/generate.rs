//! `quorate completions` and `quorate man`: made from the definition of the command line itself.

use std::path::PathBuf;

use crate::exit::{Done, Exit, Failure};
use crate::out::Out;

/// Print a script that completes commands in your shell.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  quorate completions bash > ~/.local/share/bash-completion/completions/quorate
  quorate completions zsh > ~/.zfunc/_quorate
  quorate completions fish > ~/.config/fish/completions/quorate.fish")]
pub struct Completions {
    /// The shell
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

/// Write the manual pages, one per command.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  quorate man /usr/local/share/man/man1
  quorate man /tmp/man && man /tmp/man/quorate-get.1")]
pub struct Man {
    /// The directory, which is created if need be
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

/// Prints the completions of `program`.
pub(crate) fn completions(out: &Out, args: &Completions, mut program: clap::Command) -> Done<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut program, "quorate", &mut script);
    out.bytes(&script)?;
    Ok(Exit::Ok)
}

/// Writes the manual pages of `program`.
pub(crate) fn man(out: &Out, args: &Man, program: clap::Command) -> Done<Exit> {
    let failed = |error: std::io::Error| {
        Failure::new(Exit::Failed, format!("{}: {error}", args.directory.display()))
    };
    std::fs::create_dir_all(&args.directory).map_err(failed)?;
    clap_mangen::generate_to(program, &args.directory).map_err(failed)?;
    out.line(&format!("manual pages are in {}", args.directory.display()))?;
    Ok(Exit::Ok)
}
