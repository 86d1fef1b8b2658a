//! The interruption of a command.

use tokio::sync::watch;

/// An interruption of the command, for example by SIGTERM. The caller handles the signal, and stops before the next
/// class. Clones share one state, so a clone for the task that waits for the signal is enough.
///
/// ```
/// let interruption = prepull_kubernetes::Interruption::default();
/// let for_the_signal = interruption.clone();
/// assert!(!interruption.is_interrupted());
/// for_the_signal.interrupt();
/// assert!(interruption.is_interrupted());
/// ```
#[derive(Debug, Clone, Default)]
pub struct Interruption(watch::Sender<bool>);

impl Interruption {
    /// Interrupts the command. A wait for Karpenter's verdict ends.
    pub fn interrupt(&self) {
        self.0.send_replace(true);
    }

    /// Returns whether the command was interrupted.
    #[must_use]
    pub fn is_interrupted(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits for the interruption.
    pub(crate) async fn wait(&self) {
        // The channel does not close, because this is its sender.
        let _ = self
            .0
            .subscribe()
            .wait_for(|interrupted| *interrupted)
            .await;
    }
}
