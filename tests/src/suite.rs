//! Helpers of test suites that bring their own `main`.

use libtest_mimic::{Arguments, Conclusion, Trial};

/// Reports tests as `ignored`, because this machine cannot run their suite.
pub fn report_as_ignored<'a>(
    arguments: &Arguments,
    names: impl IntoIterator<Item = &'a str>,
) -> Conclusion {
    let trials = names.into_iter().map(|name| {
        // `--ignored` and `--include-ignored` run ignored tests too.
        Trial::test(name, || Err("the suite cannot run on this machine".into()))
            .with_ignored_flag(true)
    });
    libtest_mimic::run(arguments, trials.collect())
}
