//! The codecs by name and number, and the errors of their decoders.

/// The codec of a batch's records. The numbers are those of the batch's attributes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Codec {
    /// The records are not compressed.
    #[default]
    None = 0,
    /// Gzip, in the format of RFC 1952.
    Gzip = 1,
    /// Snappy, in xerial's blocks or raw.
    Snappy = 2,
    /// LZ4, as one frame.
    Lz4 = 3,
    /// Zstandard, as frames.
    Zstd = 4,
}

impl Codec {
    /// All codecs, by number.
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// The codec with this number in the batch's attributes.
    pub const fn from_id(id: u8) -> Option<Self> {
        match id {
            0 => Some(Self::None),
            1 => Some(Self::Gzip),
            2 => Some(Self::Snappy),
            3 => Some(Self::Lz4),
            4 => Some(Self::Zstd),
            _ => None,
        }
    }

    /// The codec's number in the batch's attributes.
    pub const fn id(self) -> u8 {
        self as u8
    }

    /// Kafka's name of the codec: `none`, `gzip`, `snappy`, `lz4`, `zstd`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    /// The codec with this name of Kafka's.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|codec| codec.as_str() == name)
    }
}

impl std::fmt::Display for Codec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The reason why bytes could not be decompressed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompressionError {
    /// The output would be larger than the caller allows.
    #[error("more than {max} bytes after decompression")]
    TooLarge {
        /// Bytes that the caller allows.
        max: usize,
    },
    /// The bytes are not output of the codec.
    #[error("not valid {codec}: {detail}")]
    Damaged {
        /// The codec of the input.
        codec: Codec,
        /// The decoder's error message.
        detail: String,
    },
}

impl CompressionError {
    pub(super) fn damaged(codec: Codec, detail: impl ToString) -> Self {
        Self::Damaged {
            codec,
            detail: detail.to_string(),
        }
    }
}
