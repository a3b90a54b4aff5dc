//! Text forms of the bytes of a key or a value.

use std::io::{self, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use clap::ValueEnum;

/// How bytes stand in text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Encoding {
    /// As they are
    #[default]
    Raw,
    /// Two hexadecimal digits a byte
    Hex,
    /// Base64 with padding
    Base64,
}

impl Encoding {
    /// Writes bytes as text.
    pub fn write(self, out: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
        match self {
            Encoding::Raw => out.write_all(bytes),
            Encoding::Hex => bytes.iter().try_for_each(|byte| write!(out, "{byte:02x}")),
            Encoding::Base64 => out.write_all(STANDARD.encode(bytes).as_bytes()),
        }
    }

    /// Reads text as bytes. The error is to be read after "is".
    pub fn read(self, text: Bytes) -> Result<Bytes, String> {
        match self {
            Encoding::Raw => Ok(text),
            Encoding::Hex => hex(&text).ok_or_else(|| "not hexadecimal: two digits a byte".to_owned()),
            Encoding::Base64 => match STANDARD.decode(text.trim_ascii()) {
                Ok(bytes) => Ok(bytes.into()),
                Err(error) => Err(format!("not base64: {error}")),
            },
        }
    }
}

fn hex(text: &[u8]) -> Option<Bytes> {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let (pairs, rest) = text.trim_ascii().as_chunks::<2>();
    let bytes: Option<Vec<u8>> = pairs
        .iter()
        .map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?))
        .collect();
    bytes.filter(|_| rest.is_empty()).map(Bytes::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back_from_each_form() {
        let bytes = Bytes::from((0..=255).collect::<Vec<u8>>());
        for encoding in [Encoding::Raw, Encoding::Hex, Encoding::Base64] {
            let mut text = Vec::new();
            encoding.write(&mut text, &bytes).expect("writing to memory works");
            assert_eq!(encoding.read(text.into()), Ok(bytes.clone()), "{encoding:?}");
        }
        let read = |encoding: Encoding, text: &'static str| encoding.read(Bytes::from_static(text.as_bytes()));
        assert_eq!(read(Encoding::Hex, "FF00\r"), Ok(Bytes::from_static(b"\xff\x00")));
        assert_eq!(read(Encoding::Hex, ""), Ok(Bytes::new()));
        for (encoding, text) in [(Encoding::Hex, "f"), (Encoding::Hex, "xy"), (Encoding::Base64, "***")] {
            assert!(read(encoding, text).expect_err(text).starts_with("not "), "{text}");
        }
    }
}
