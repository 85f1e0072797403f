//! Errors as one line of the log.

/// An error with its causes. Of each the first line: the kernel's verifier answers with many.
pub fn one_line(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let lines: Vec<String> =
        causes.filter_map(|cause| cause.to_string().lines().next().map(str::to_owned)).collect();
    lines.join(": ")
}
