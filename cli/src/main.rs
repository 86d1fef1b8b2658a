//! prepull's command-line tool.

use std::io::{ErrorKind, Write as _};
use std::process::ExitCode;

use clap::Parser as _;
use futures::StreamExt as _;
use futures::channel::mpsc;
use jiff::Timestamp;
use prepull::Args;
use prepull_aws::Clients;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args = Args::parse();
    let result = if let Some(result) = prepull::run_offline(&args) {
        result
    } else {
        let clients = Clients::from_environment().await;
        prepull::run(&args, &clients, Timestamp::now(), interrupt()).await
    };
    match result {
        Ok(answer) => match writeln!(std::io::stdout(), "{}", answer.text) {
            Err(error) if error.kind() != ErrorKind::BrokenPipe => {
                eprintln!("error: cannot write to standard output: {error}");
                ExitCode::FAILURE
            }
            _ => answer.exit.into(),
        },
        Err(error) => {
            eprintln!("error: {error}");
            error.exit().into()
        }
    }
}

/// Resolves at the first Ctrl-C, SIGTERM or SIGHUP. It installs the signal handler when it is first polled, so that a signal
/// still ends every command that does not wait for it.
async fn interrupt() {
    let (sender, mut receiver) = mpsc::unbounded();
    let taken = ctrlc::set_handler(move || {
        // The receiver is gone only if the process is about to end.
        let _ = sender.unbounded_send(());
    });
    match taken {
        Ok(()) => {
            receiver.next().await;
        }
        // Without a handler, Ctrl-C ends the process, which also stops following.
        Err(_) => std::future::pending().await,
    }
}
