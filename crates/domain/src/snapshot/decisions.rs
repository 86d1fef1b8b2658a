//! Makes decisions about a pointer that several callers may change at the same moment.
//!
//! Parameter Store has no compare-and-set. It does refuse to create a parameter that exists. Each decision is therefore a
//! parameter of its own, with a number that only one caller can take. The last decision is the truth. The parameters that
//! nodes read show it, and every caller repeats the write until they show the last decision.
//!
//! A caller may end at any point. The next one, or the hourly sweep, then completes its decision.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::snapshot::pointer::{Change, Decision, Pointer, PublishedSnapshot, Refusal, Verdict};

/// Number of decisions that the store keeps, for the history and for late callers.
pub const KEPT: u64 = 8;

/// A decision in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Pointer after the decision.
    #[serde(flatten)]
    pub pointer: Pointer,
    /// Whether its events were emitted.
    pub announced: bool,
}

/// Whether a decision took its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// The decision is made.
    New,
    /// Another decision has the number.
    Taken,
}

/// The store of one target's decisions.
pub trait Store {
    /// Error of a call.
    type Error;

    /// Returns the kept decisions.
    fn entries(&self) -> impl Future<Output = Result<Vec<Entry>, Self::Error>>;

    /// Returns the published snapshot of a version without decisions.
    fn published_before(
        &self,
    ) -> impl Future<Output = Result<Option<PublishedSnapshot>, Self::Error>>;

    /// Creates the entry, unless its number is taken.
    fn append(&self, entry: &Entry) -> impl Future<Output = Result<Appended, Self::Error>>;

    /// Sets the parameters that consumers read.
    fn show(&self, pointer: &Pointer) -> impl Future<Output = Result<(), Self::Error>>;

    /// Emits the events of an entry, then marks it as announced. `before` is the pointer before the entry.
    fn announce(
        &self,
        before: Option<&Pointer>,
        entry: Entry,
    ) -> impl Future<Output = Result<(), Self::Error>>;

    /// Deletes an entry.
    fn forget(&self, sequence: u64) -> impl Future<Output = Result<(), Self::Error>>;
}

/// The result of [`decide`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    /// Pointer after the decision.
    pub pointer: Pointer,
    /// Change by this call. `None` if the decision had been made before, or nothing was due.
    pub change: Option<Change>,
}

/// A decision that was not made.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotDecided<E> {
    /// The pointer does not allow it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The store failed. The decision may have been made. A repeated call completes it.
    #[error("{0}")]
    Failed(E),
}

/// Makes a decision, and completes all earlier ones.
///
/// # Errors
/// See [`NotDecided`].
pub async fn decide<S: Store>(
    store: &S,
    decision: &Decision,
    now: Timestamp,
) -> Result<Decided, NotDecided<S::Error>> {
    let mut change = None;
    let last = loop {
        let last = current(store).await.map_err(NotDecided::Failed)?;
        let pointer = match last.after(decision, now) {
            Ok(Verdict::Changed(pointer)) => *pointer,
            Ok(Verdict::Unchanged) => break last,
            Err(refusal) => {
                // Nodes may still read an older pointer than the one that led to the refusal.
                complete(store, last).await.map_err(NotDecided::Failed)?;
                return Err(refusal.into());
            }
        };
        let entry = Entry {
            pointer,
            announced: false,
        };
        let appended = store.append(&entry).await.map_err(NotDecided::Failed)?;
        if appended == Appended::New {
            change.clone_from(&entry.pointer.change);
            let newest = current(store).await.map_err(NotDecided::Failed)?;
            if newest.sequence < entry.pointer.sequence {
                // The list does not have the new entry yet.
                break entry.pointer;
            }
            if newest.sequence < entry.pointer.sequence + KEPT {
                break newest;
            }
            // A late caller can take a number that was already deleted. Nobody reads that entry.
            change = None;
        }
    };
    let pointer = complete(store, last).await.map_err(NotDecided::Failed)?;
    Ok(Decided { pointer, change })
}

/// Returns the pointer after the last decision.
///
/// # Errors
/// If the store fails.
pub async fn current<S: Store>(store: &S) -> Result<Pointer, S::Error> {
    match newest(store.entries().await?) {
        Some(entry) => Ok(entry.pointer),
        None => Ok(Pointer::initial(store.published_before().await?)),
    }
}

/// Returns the last of these decisions.
#[must_use]
pub fn newest(entries: Vec<Entry>) -> Option<Entry> {
    entries
        .into_iter()
        .max_by_key(|entry| entry.pointer.sequence)
}

/// Shows the last decision, announces all that were not announced, and deletes old ones. Returns the last pointer.
///
/// # Errors
/// If the store fails.
pub async fn complete<S: Store>(store: &S, mut last: Pointer) -> Result<Pointer, S::Error> {
    if last.sequence == 0 {
        return Ok(last);
    }
    // An earlier caller may write its pointer after a later one, so the writes repeat until the last decision stays.
    let mut entries = loop {
        store.show(&last).await?;
        let entries = store.entries().await?;
        match newest(entries.clone()) {
            Some(entry) if entry.pointer.sequence > last.sequence => last = entry.pointer,
            _ => break entries,
        }
    };
    entries.sort_by_key(|entry| entry.pointer.sequence);
    let expired = entries.partition_point(|entry| entry.pointer.sequence + KEPT <= last.sequence);
    for (index, entry) in entries.iter().enumerate().skip(expired) {
        if !entry.announced {
            let before = index.checked_sub(1).map(|before| &entries[before].pointer);
            store.announce(before, entry.clone()).await?;
        }
    }
    for entry in &entries[..expired] {
        store.forget(entry.pointer.sequence).await?;
    }
    Ok(last)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeMap;
    use std::pin::{Pin, pin};
    use std::task::{Context, Poll, Waker};

    use proptest::prelude::*;

    use super::*;
    use crate::cache::config::Promotion;
    use crate::snapshot::pointer::tests::{published, time};

    /// A store in memory. Each call that matters for the order first returns `Pending` once, so a test chooses the order.
    #[derive(Default)]
    struct Memory(RefCell<Contents>);

    #[derive(Default)]
    struct Contents {
        entries: BTreeMap<u64, Entry>,
        /// Every entry that was ever created, in this order.
        history: Vec<Pointer>,
        /// The two parameters that consumers read.
        shown: [Option<Pointer>; 2],
        /// Numbers of the announced decisions.
        events: Vec<u64>,
        /// Whether an announcement is one step with the call before it. No decision depends on it, so a test that tries
        /// every order can leave it out.
        announces_at_once: bool,
    }

    impl Memory {
        fn before() -> PublishedSnapshot {
            published(1)
        }
    }

    /// Returns `Pending` at the first poll.
    async fn step() {
        let mut polled = false;
        std::future::poll_fn(|_| {
            if std::mem::replace(&mut polled, true) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }

    impl Store for Memory {
        type Error = std::convert::Infallible;

        async fn entries(&self) -> Result<Vec<Entry>, Self::Error> {
            step().await;
            Ok(self.0.borrow().entries.values().cloned().collect())
        }

        async fn published_before(&self) -> Result<Option<PublishedSnapshot>, Self::Error> {
            Ok(Some(Self::before()))
        }

        async fn append(&self, entry: &Entry) -> Result<Appended, Self::Error> {
            step().await;
            let mut contents = self.0.borrow_mut();
            let sequence = entry.pointer.sequence;
            if contents.entries.contains_key(&sequence) {
                return Ok(Appended::Taken);
            }
            contents.entries.insert(sequence, entry.clone());
            contents.history.push(entry.pointer.clone());
            Ok(Appended::New)
        }

        async fn show(&self, pointer: &Pointer) -> Result<(), Self::Error> {
            for parameter in 0..2 {
                step().await;
                self.0.borrow_mut().shown[parameter] = Some(pointer.clone());
            }
            Ok(())
        }

        async fn announce(&self, _: Option<&Pointer>, mut entry: Entry) -> Result<(), Self::Error> {
            if !self.0.borrow().announces_at_once {
                step().await;
            }
            let mut contents = self.0.borrow_mut();
            contents.events.push(entry.pointer.sequence);
            entry.announced = true;
            contents.entries.insert(entry.pointer.sequence, entry);
            Ok(())
        }

        async fn forget(&self, sequence: u64) -> Result<(), Self::Error> {
            step().await;
            self.0.borrow_mut().entries.remove(&sequence);
            Ok(())
        }
    }

    type Result_ = Result<Decided, NotDecided<std::convert::Infallible>>;

    /// The concurrent callers, of which a test polls one at a time.
    struct Callers<'a>(Vec<Option<Pin<Box<dyn Future<Output = Result_> + 'a>>>>);

    impl<'a> Callers<'a> {
        fn start(store: &'a Memory, decisions: &'a [Decision]) -> Self {
            let caller =
                |(index, decision)| -> Option<Pin<Box<dyn Future<Output = Result_> + 'a>>> {
                    Some(Box::pin(decide(store, decision, time(100 + index))))
                };
            Self((0i64..).zip(decisions).map(caller).collect())
        }

        /// Returns the positions of the callers that have not ended.
        fn running(&self) -> Vec<usize> {
            let positions = self.0.iter().enumerate();
            positions
                .filter_map(|(at, caller)| caller.as_ref().map(|_| at))
                .collect()
        }

        /// Lets one caller make its next call.
        fn poll(&mut self, at: usize) {
            let caller = self.0[at].as_mut().expect("the caller runs");
            let mut context = Context::from_waker(Waker::noop());
            if caller.as_mut().poll(&mut context).is_ready() {
                self.0[at] = None;
            }
        }
    }

    /// Runs a future whose calls never wait for another caller.
    fn block_on<T>(future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        loop {
            if let Poll::Ready(value) = future
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()))
            {
                return value;
            }
        }
    }

    /// Checks that the decisions were made one after the other, and that consumers see the last one.
    fn check(store: &Memory, decisions: &[Decision]) {
        let contents = store.0.borrow();
        let mut last = Pointer::initial(Some(Memory::before()));
        for next in &contents.history {
            let made = decisions.iter().zip(100..).any(|(decision, second)| {
                last.after(decision, time(second)) == Ok(Verdict::Changed(Box::new(next.clone())))
            });
            assert!(made, "no decision leads from {last:?} to {next:?}");
            last = next.clone();
        }
        for shown in &contents.shown {
            match shown {
                Some(shown) => assert_eq!(*shown, last),
                None => assert_eq!(last.sequence, 0),
            }
        }
        for entry in &contents.history {
            assert!(contents.events.contains(&entry.sequence));
        }
        // A decision that was made changes nothing if it is repeated.
        for (decision, second) in decisions.iter().zip(100..) {
            if let Ok(Verdict::Changed(next)) = last.after(decision, time(second)) {
                panic!("{decision:?} was lost: it still leads from {last:?} to {next:?}");
            }
        }
    }

    fn reason() -> crate::snapshot::pointer::Reason {
        "an image is missing".parse().unwrap()
    }

    fn publish(n: u8, promotion: Promotion) -> Decision {
        Decision::Publish {
            snapshot: Box::new(published(n)),
            promotion,
        }
    }

    fn roll_back() -> Decision {
        Decision::RollBack { reason: reason() }
    }

    fn reject(n: u8) -> Decision {
        Decision::Reject {
            snapshot: published(n).snapshot_id,
            reason: reason(),
            promotion: Promotion::Immediate,
        }
    }

    /// Tries every order of the calls of two callers. Returns the number of orders.
    fn every_interleaving(decisions: &[Decision]) -> usize {
        let mut tried = 0;
        // The order of one run: the choice at each step. The next run changes the last choice that can change.
        let mut order: Vec<(usize, Vec<usize>)> = Vec::new();
        loop {
            let store = Memory::default();
            store.0.borrow_mut().announces_at_once = true;
            let mut callers = Callers::start(&store, decisions);
            let mut at = 0;
            loop {
                let running = callers.running();
                if running.is_empty() {
                    break;
                }
                if at == order.len() {
                    order.push((0, running));
                }
                let (choice, running) = &order[at];
                callers.poll(running[*choice]);
                at += 1;
            }
            drop(callers);
            check(&store, decisions);
            tried += 1;
            while order
                .last()
                .is_some_and(|(choice, running)| choice + 1 == running.len())
            {
                order.pop();
            }
            match order.last_mut() {
                Some((choice, _)) => *choice += 1,
                None => return tried,
            }
        }
    }

    #[test]
    fn every_interleaving_of_two_callers_is_correct() {
        let immediate = Promotion::Immediate;
        let pin = Decision::Pin { reason: reason() };
        let unpin = Decision::Unpin {
            promotion: immediate,
        };
        let pairs = [
            [publish(2, immediate), publish(3, immediate)],
            [publish(2, immediate), pin],
            [publish(2, Promotion::Manual), reject(2)],
            [publish(2, Promotion::Manual), unpin],
        ];
        let tried: usize = pairs.iter().map(|pair| every_interleaving(pair)).sum();
        println!("{tried} interleavings, all correct");
        assert!(tried > 10_000, "only {tried} interleavings");
    }

    fn any_decision() -> impl Strategy<Value = Decision> {
        let promotion = prop::sample::select(vec![Promotion::Immediate, Promotion::Manual]);
        let snapshot = 2..6u8;
        prop_oneof![
            (snapshot.clone(), promotion.clone()).prop_map(|(n, promotion)| publish(n, promotion)),
            (prop::option::of(snapshot.clone()), promotion.clone()).prop_map(|(n, promotion)| {
                Decision::Promote {
                    snapshot: n.map(|n| published(n).snapshot_id),
                    promotion,
                }
            }),
            Just(roll_back()),
            Just(Decision::Pin { reason: reason() }),
            promotion.prop_map(|promotion| Decision::Unpin { promotion }),
            snapshot.prop_map(reject),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        /// Callers may end after any call. The sweep then completes their decisions.
        #[test]
        fn interleaved_callers_that_may_end_leave_a_correct_pointer(
            decisions in prop::collection::vec(any_decision(), 2..5),
            choices in prop::collection::vec((any::<prop::sample::Index>(), 0..40u8), 20..200),
        ) {
            let store = Memory::default();
            let mut callers = Callers::start(&store, &decisions);
            for (choice, luck) in choices {
                let running = callers.running();
                if running.is_empty() {
                    break;
                }
                let at = running[choice.index(running.len())];
                if luck == 0 {
                    callers.0[at] = None;
                } else {
                    callers.poll(at);
                }
            }
            drop(callers);
            block_on(async {
                let last = current(&store).await.unwrap();
                complete(&store, last).await.unwrap();
            });
            let contents = store.0.borrow();
            let last = contents.history.last();
            for (before, after) in contents.history.iter().zip(contents.history.iter().skip(1)) {
                prop_assert_eq!(before.sequence + 1, after.sequence);
            }
            prop_assert!(contents.shown.iter().all(|shown| shown.as_ref() == last));
            prop_assert!(contents.history.iter().all(|entry| contents.events.contains(&entry.sequence)));
        }

        #[test]
        fn late_caller_repeats_a_decision_whose_number_was_deleted(more in KEPT + 1..KEPT + 4) {
            let store = Memory::default();
            let late = [publish(2, Promotion::Manual)];
            let mut callers = Callers::start(&store, &late);
            // The late caller has read the decisions, and not yet written its own.
            callers.poll(0);
            callers.poll(0);
            prop_assert!(store.0.borrow().entries.is_empty());
            for n in 0..more {
                let reason = format!("reason {n}").parse().unwrap();
                block_on(decide(&store, &Decision::Pin { reason }, time(50))).unwrap();
            }
            prop_assert!(!store.0.borrow().entries.contains_key(&1));
            while !callers.running().is_empty() {
                callers.poll(0);
            }
            let last = block_on(current(&store)).unwrap();
            prop_assert_eq!(last.sequence, more + 1);
            prop_assert_eq!(last.candidate, Some(published(2)));
            prop_assert!(store.0.borrow().shown.iter().all(|shown| shown.as_ref().map(|shown| shown.sequence) == Some(more + 1)));
        }
    }
}
