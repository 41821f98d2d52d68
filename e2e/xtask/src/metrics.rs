//! What a broker serves under `/metrics`.

use anyhow::{Result, bail, ensure};

/// A request for `path` that is answered by all there is until the connection ends.
pub(crate) fn request(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: sluice\r\nconnection: close\r\n\r\n")
}

/// The body of the answer to it.
pub(crate) fn body(path: &str, answer: &str) -> Result<String> {
    let Some((head, body)) = answer.split_once("\r\n\r\n") else { bail!("the broker's answer to {path} is no HTTP: {answer:?}") };
    ensure!(head.starts_with("HTTP/1.1 200 "), "the broker answers {path} with {}: {body}", head.lines().next().unwrap_or_default());
    Ok(body.to_owned())
}

/// One scrape.
pub(crate) struct Metrics(pub(crate) String);

impl Metrics {
    /// The value of the line that begins with this name and these labels, if it is there (yet).
    pub(crate) fn get(&self, line: &str) -> Option<f64> {
        self.0.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(' ')?.parse().ok())
    }

    /// The same; 0 for one that is not there.
    pub(crate) fn value(&self, line: &str) -> f64 {
        self.get(line).unwrap_or(0.0)
    }

    /// Connections ended by the broker itself, by reason.
    pub(crate) fn closed(&self, reason: &str) -> f64 {
        self.value(&format!("sluice_connections_closed_total{{reason=\"{reason}\"}}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_found_by_its_whole_name_and_labels() {
        let metrics = Metrics("# TYPE a counter\na_b 7\na 3\nsluice_connections_closed_total{reason=\"idle\"} 4\n".into());
        assert_eq!((metrics.value("a"), metrics.value("a_b"), metrics.value("c"), metrics.get("c")), (3.0, 7.0, 0.0, None));
        assert_eq!((metrics.closed("idle"), metrics.closed("peer")), (4.0, 0.0));
    }
}
