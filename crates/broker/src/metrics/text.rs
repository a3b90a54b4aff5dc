//! The two text formats of a scrape. Prometheus asks for OpenMetrics 1.0; clients that do not ask for it (curl, promtool, older
//! agents) get Prometheus' text format 0.0.4, in which HELP and TYPE of a counter have the name of its series, with `_total`.

/// The text format of a scrape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    OpenMetrics,
    Text,
}

impl Form {
    /// The format that a request's `Accept` header asks for.
    pub fn accepted(accept: Option<&str>) -> Self {
        let mut media_types = accept.into_iter().flat_map(|accept| accept.split(','));
        let wants = |media_type: &str| {
            let mut parts = media_type.split(';').map(str::trim);
            let is_named = parts.next() == Some("application/openmetrics-text");
            // A quality of 0 means "not acceptable" (RFC 9110, section 12.4.2).
            is_named && parts.all(|part| !matches!(part, "q=0" | "q=0.0"))
        };
        match media_types.any(wants) {
            true => Self::OpenMetrics,
            false => Self::Text,
        }
    }

    /// The response's content type.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// Converts OpenMetrics text to this format.
    pub fn of(self, open_metrics: String) -> String {
        match self {
            Self::OpenMetrics => open_metrics,
            Self::Text => to_text(&open_metrics),
        }
    }
}

fn to_text(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    let mut head: Option<(&str, &str)> = None;
    for line in open_metrics.lines() {
        if let Some(of_family) = line.strip_prefix("# HELP ") {
            head = of_family.split_once(' ');
        } else if let Some(of_family) = line.strip_prefix("# TYPE ") {
            let (name, kind) = of_family.split_once(' ').unwrap_or((of_family, "untyped"));
            let suffix = if kind == "counter" { "_total" } else { "" };
            if let Some((_, help)) = head.take() {
                text.push_str(&format!("# HELP {name}{suffix} {help}\n"));
            }
            text.push_str(&format!("# TYPE {name}{suffix} {kind}\n"));
        } else if !line.starts_with('#') {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prometheus_gets_open_metrics_and_others_the_older_text() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.4,*/*;q=0.1";
        assert_eq!(Form::accepted(Some(prometheus)), Form::OpenMetrics);
        for other in [
            None,
            Some("*/*"),
            Some("text/plain"),
            Some("application/openmetrics-text;q=0, text/plain"),
        ] {
            assert_eq!(Form::accepted(other), Form::Text, "{other:?}");
        }
    }

    #[test]
    fn in_the_older_text_a_counters_head_has_its_series_name() {
        let open_metrics = "# HELP a_bytes Bytes.\n# TYPE a_bytes counter\n# UNIT a_bytes bytes\na_bytes_total{t=\"# x\"} 1\n\
                            # HELP b B.\n# TYPE b gauge\nb 2\n# EOF\n";
        let text = "# HELP a_bytes_total Bytes.\n# TYPE a_bytes_total counter\na_bytes_total{t=\"# x\"} 1\n\
                    # HELP b B.\n# TYPE b gauge\nb 2\n";
        assert_eq!(Form::Text.of(open_metrics.to_owned()), text);
        assert_eq!(Form::OpenMetrics.of(open_metrics.to_owned()), open_metrics);
    }
}
