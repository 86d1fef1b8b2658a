//! The operator's command of prepull.

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
    let clients = Clients::from_environment().await;
    match prepull::run(&args, &clients, Timestamp::now(), interrupt()).await {
        Ok(answer) => match writeln!(std::io::stdout(), "{}", answer.text) {
            Err(error) if error.kind() != ErrorKind::BrokenPipe => {
                eprintln!("error: the answer could not be written: {error}");
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

/// Ends at the first Ctrl-C. The signal is taken over only once this is waited for, so that it ends every command
/// which does not wait.
async fn interrupt() {
    let (sender, mut receiver) = mpsc::unbounded();
    let taken = ctrlc::set_handler(move || {
        // Nobody listens any more only when the process is about to end anyway.
        let _ = sender.unbounded_send(());
    });
    match taken {
        Ok(()) => {
            receiver.next().await;
        }
        // Ctrl-C then ends the process as it would any other, which stops following just as well.
        Err(_) => std::future::pending().await,
    }
}
