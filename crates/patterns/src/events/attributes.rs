//! The attributes of an event as headers of its record: CloudEvents 1.0, Kafka protocol binding, binary content mode.

use jangada_client::Header;
use jiff::Timestamp;

/// The version of CloudEvents that is written, and read.
const SPEC_VERSION: &str = "1.0";

/// The media type of an event's data.
const CONTENT_TYPE: &str = "application/json";

/// The attributes of an event. Any CloudEvents library reads them, and this reads what any writes in binary mode; attributes beyond these
/// are passed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// `ce_id`: with the source, it names the event among all.
    pub id: String,
    /// `ce_source`: a URI reference, not empty.
    pub source: String,
    /// `ce_type`: what has happened.
    pub event_type: String,
    /// `ce_time`, milliseconds since the Unix epoch; it is RFC 3339 in the header. `None`: it does not say.
    pub time_ms: Option<i64>,
    /// `ce_schemaversion`, an extension: the version of the data's fields. Without it the version is 1.
    pub version: u32,
}

impl Attributes {
    /// The headers of a record.
    pub fn to_headers(&self) -> Vec<Header> {
        let header = |key: &str, value: String| Header {
            key: key.to_owned(),
            value: Some(value.into()),
        };
        let mut headers = vec![
            header("ce_specversion", SPEC_VERSION.to_owned()),
            header("ce_id", self.id.clone()),
            header("ce_source", self.source.clone()),
            header("ce_type", self.event_type.clone()),
            header("ce_schemaversion", self.version.to_string()),
            header("content-type", CONTENT_TYPE.to_owned()),
        ];
        let time = self.time_ms.and_then(|ms| Timestamp::from_millisecond(ms).ok());
        headers.extend(time.map(|time| header("ce_time", time.to_string())));
        headers
    }

    /// The attributes in the headers of a record; an error is a sentence.
    ///
    /// # Errors
    /// What is missing, or not as CloudEvents 1.0 wants it.
    pub fn of_headers(headers: &[Header]) -> Result<Self, String> {
        let spec_version = required(headers, "ce_specversion")?;
        if spec_version != SPEC_VERSION {
            return Err(format!(
                "it is of CloudEvents {spec_version:?}; {SPEC_VERSION} is read here"
            ));
        }
        let content_type = text(headers, "content-type")?.unwrap_or(CONTENT_TYPE);
        let media = content_type.split(';').next().unwrap_or_default().trim();
        if !media.eq_ignore_ascii_case(CONTENT_TYPE) {
            return Err(format!("its data is {media}; {CONTENT_TYPE} is read here"));
        }
        let time_ms = match text(headers, "ce_time")? {
            Some(time) => {
                let parsed: Result<Timestamp, _> = time.parse();
                Some(
                    parsed
                        .map_err(|error| format!("ce_time {time:?}: {error}"))?
                        .as_millisecond(),
                )
            }
            None => None,
        };
        let version = text(headers, "ce_schemaversion")?.unwrap_or("1");
        Ok(Self {
            id: required(headers, "ce_id")?.to_owned(),
            source: required(headers, "ce_source")?.to_owned(),
            event_type: required(headers, "ce_type")?.to_owned(),
            time_ms,
            version: version
                .parse()
                .map_err(|_| format!("ce_schemaversion {version:?} is no number"))?,
        })
    }
}

/// A header's text, if it is there.
fn text<'h>(headers: &'h [Header], name: &str) -> Result<Option<&'h str>, String> {
    let found = headers.iter().find(|header| header.key == name);
    let Some(value) = found.and_then(|header| header.value.as_ref()) else {
        return Ok(None);
    };
    std::str::from_utf8(value)
        .map(Some)
        .map_err(|_| format!("{name} is not UTF-8"))
}

fn required<'h>(headers: &'h [Header], name: &str) -> Result<&'h str, String> {
    text(headers, name)?
        .filter(|value| !value.is_empty())
        .ok_or_else(|| format!("it has no {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn attributes() -> Attributes {
        Attributes {
            id: "7".to_owned(),
            source: "/shop/tills/3".to_owned(),
            event_type: "shop.order.paid".to_owned(),
            time_ms: Some(1_796_000_000_123),
            version: 2,
        }
    }

    #[test]
    fn headers_are_those_of_the_kafka_binding() {
        let headers = attributes().to_headers();
        let find = |name| text(&headers, name).expect("text");
        assert_eq!(find("ce_specversion"), Some("1.0"));
        assert_eq!(find("ce_time"), Some("2026-11-30T00:53:20.123Z"));
        assert_eq!(find("content-type"), Some("application/json"));
    }

    #[test]
    fn what_is_required_must_be_there() {
        for name in ["ce_specversion", "ce_id", "ce_source", "ce_type"] {
            let mut headers = attributes().to_headers();
            headers.retain(|header| header.key != name);
            let error = Attributes::of_headers(&headers).expect_err("it is required");
            assert!(error.contains(name), "{error}");
            headers.push(Header {
                key: name.to_owned(),
                value: Some("".into()),
            });
            Attributes::of_headers(&headers).expect_err("empty is not there");
        }
    }

    #[test]
    fn another_version_time_or_form_is_refused() {
        let with = |name: &str, value: &'static str| {
            let mut headers = attributes().to_headers();
            let header = headers
                .iter_mut()
                .find(|header| header.key == name)
                .expect("it is there");
            header.value = Some(value.into());
            Attributes::of_headers(&headers)
        };
        with("ce_specversion", "0.3").expect_err("an older one");
        with("ce_time", "yesterday").expect_err("no time");
        with("ce_schemaversion", "two").expect_err("no number");
        with("content-type", "application/avro").expect_err("not JSON");
        with("content-type", "application/json; charset=utf-8").expect("parameters do not count");
    }

    proptest! {
        #[test]
        fn attributes_come_back_as_they_were(
            id in ".{1,20}", source in ".{1,20}", event_type in "[a-z.]{1,20}",
            time_ms in proptest::option::of(0_i64..4_000_000_000_000), version in 0_u32..,
        ) {
            let written = Attributes { id, source, event_type, time_ms, version };
            prop_assert_eq!(Attributes::of_headers(&written.to_headers()), Ok(written));
        }
    }
}
