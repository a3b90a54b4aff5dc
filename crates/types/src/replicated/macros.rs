//! The macro that declares replicated commands and replies, described in [`replicated`](super).

/// Declares the commands, or the replies, of a replicated state machine: `pub enum NAME, KINDS, "what they are called in
/// errors" { variants }`. A variant is one of
///
/// - `Name = KIND since LEVEL { #[prost(..)] field: Type as FormType, .. }`, the usual one. The level may be left out of
///   replies. `or Other = KIND since LEVEL with { field }` behind it adds a field of type `bool` that is not in the message:
///   where it is true, the command has this second kind.
/// - `Name(Type as FormType) = KIND since LEVEL`, with a type whose message is written down elsewhere.
/// - `Name = KIND since LEVEL as FormType { field: Type, .. }`, with a message that has another structure. `(Type, ..)` is
///   [`Wire`](crate::replicated::Wire) of it.
#[macro_export]
macro_rules! replicated {
    (
        $(#[doc = $about:expr])*
        pub enum $Command:ident, $Kind:ident, $what:literal {
            $(
                $(#[doc = $doc:expr])*
                $Name:ident $(($inner:ty as $inner_form:ty))? = $kind:literal $(since $since:literal)?
                $({
                    $(
                        $(#[doc = $field_doc:expr])*
                        #[prost($($attribute:tt)*)]
                        $field:ident: $ty:ty $(as $form:ty)?
                    ),* $(,)?
                } $(or $Other:ident = $other:literal since $other_since:literal with {
                    $(#[doc = $flag_doc:expr])*
                    $flag:ident
                })?)?
                $(as $own_form:ty {
                    $(
                        $(#[doc = $own_doc:expr])*
                        $own:ident: $own_ty:ty
                    ),* $(,)?
                })?
            ),* $(,)?
        }
    ) => {
        $(#[doc = $about])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum $Command {
            $(
                $(#[doc = $doc])*
                $Name $(($inner))?
                $({
                    $($(#[doc = $field_doc])* $field: $ty,)*
                    $($(#[doc = $flag_doc])* $flag: bool,)?
                })?
                $({
                    $($(#[doc = $own_doc])* $own: $own_ty,)*
                })?
            ),*
        }

        #[doc = concat!("The kinds of [`", stringify!($Command), "`], with the byte of each.")]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum $Kind {
            $(
                $(#[doc = $doc])*
                $Name = $kind,
                $($(
                    #[doc = concat!("`", stringify!($Name), "` with `", stringify!($flag), "`.")]
                    $Other = $other,
                )?)?
            )*
        }

        impl $Kind {
            /// All kinds, as they were declared.
            pub const ALL: &[Self] = &[$(Self::$Name, $($(Self::$Other,)?)?)*];

            /// The kind's byte in the encoding.
            pub const fn byte(self) -> u8 {
                self as u8
            }

            /// The kind's name in the declaration.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(
                        Self::$Name => stringify!($Name),
                        $($(Self::$Other => stringify!($Other),)?)?
                    )*
                }
            }

            /// The first feature level that knows the kind; 0 where none is declared.
            pub const fn since(self) -> u32 {
                match self {
                    $(
                        Self::$Name => $crate::replicated_part!(since $($since)?),
                        $($(Self::$Other => $other_since,)?)?
                    )*
                }
            }

            /// The highest feature level that one of the kinds needs.
            pub const fn highest_since() -> u32 {
                let (mut highest, mut at) = (0, 0);
                while at < Self::ALL.len() {
                    let since = Self::ALL[at].since();
                    if since > highest {
                        highest = since;
                    }
                    at += 1;
                }
                highest
            }
        }

        // The commands of the group must be within the level that the build says it understands.
        const _: () = assert!($Kind::highest_since() <= $crate::FEATURE_LEVEL);

        impl $Command {
            /// The kind of this value.
            pub fn kind(&self) -> $Kind {
                match self {
                    $(
                        $(Self::$Name(inner) => {
                            let _: &$inner = inner;
                            $Kind::$Name
                        })?
                        $(Self::$Name { $($field: _,)* $($flag,)? } => {
                            let kind = $Kind::$Name;
                            $(let kind = if *$flag { $Kind::$Other } else { kind };)?
                            kind
                        })?
                        $(Self::$Name { $($own: _,)* } => $Kind::$Name,)?
                    )*
                }
            }

            #[doc = concat!("As bytes: version, kind, message. [`", stringify!($Command), "::decode`] reads them.")]
            pub fn encode(&self) -> ::bytes::Bytes {
                use $crate::replicated::Wire;
                let kind = Some(self.kind().byte());
                match self {
                    $(
                        $(Self::$Name(inner) => {
                            let form: $inner_form = inner.to_form();
                            $crate::frame::frame(kind, &form)
                        })?
                        $(Self::$Name { $($field,)* .. } => {
                            $crate::frame::frame(kind, &forms::$Name { $($field: $field.to_form(),)* })
                        })?
                        $(Self::$Name { $($own,)* } => {
                            let form: $own_form = ($(Clone::clone($own),)*).to_form();
                            $crate::frame::frame(kind, &form)
                        })?
                    )*
                }
            }

            #[doc = concat!("Reads what [`", stringify!($Command), "::encode`] wrote.")]
            ///
            /// # Errors
            /// When a newer build wrote it, or it is damaged. A replica that can't read a committed entry must stop,
            /// for skipping it would make its state differ from the others'.
            pub fn decode(bytes: &[u8]) -> Result<Self, $crate::CodecError> {
                use $crate::replicated::Wire;
                let (kind, body) = $crate::frame::unframe($what, bytes)?;
                match kind {
                    $(
                        $($kind => {
                            const WHAT: &str = concat!($what, " ", stringify!($Name));
                            let form: $inner_form = $crate::frame::message(WHAT, body)?;
                            Ok(Self::$Name(<$inner>::from_form(WHAT, form)?))
                        })?
                        $($kind $(| $other)? => {
                            const WHAT: &str = concat!($what, " ", stringify!($Name));
                            let form: forms::$Name = $crate::frame::message(WHAT, body)?;
                            Ok(Self::$Name {
                                $($field: Wire::from_form(WHAT, form.$field)?,)*
                                $($flag: kind == $other,)?
                            })
                        })?
                        $($kind => {
                            const WHAT: &str = concat!($what, " ", stringify!($Name));
                            let form: $own_form = $crate::frame::message(WHAT, body)?;
                            let ($($own,)*) = Wire::from_form(WHAT, form)?;
                            Ok(Self::$Name { $($own,)* })
                        })?
                    )*
                    kind => Err($crate::CodecError::UnknownKind { what: $what, kind }),
                }
            }

            /// A sample value of this kind, for tests.
            pub fn sample(kind: $Kind, seeds: &mut $crate::replicated::Seeds) -> Self {
                use $crate::replicated::Sample;
                match kind {
                    $(
                        $($Kind::$Name => Self::$Name(<$inner>::sample(seeds)),)?
                        $(
                            $Kind::$Name => Self::$Name {
                                $($field: Sample::sample(seeds),)*
                                $($flag: false,)?
                            },
                            $($Kind::$Other => {
                                let mut made = Self::sample($Kind::$Name, seeds);
                                if let Self::$Name { $flag, .. } = &mut made {
                                    *$flag = true;
                                }
                                made
                            })?
                        )?
                        $($Kind::$Name => Self::$Name { $($own: Sample::sample(seeds),)* },)?
                    )*
                }
            }
        }

        impl $crate::replicated::Declared for $Command {
            type Kind = $Kind;

            const KINDS: &'static [$Kind] = $Kind::ALL;

            fn name(kind: $Kind) -> (u8, &'static str) {
                (kind.byte(), kind.as_str())
            }

            fn sample(kind: $Kind, seeds: &mut $crate::replicated::Seeds) -> Self {
                Self::sample(kind, seeds)
            }

            fn kind(&self) -> $Kind {
                self.kind()
            }

            fn encode(&self) -> ::bytes::Bytes {
                self.encode()
            }

            fn decode(bytes: &[u8]) -> Result<Self, $crate::CodecError> {
                Self::decode(bytes)
            }
        }

        /// The message types of the variants.
        mod forms {
            #[allow(unused_imports, reason = "a declaration may need none of them")]
            use super::*;

            $($(
                #[derive(Clone, PartialEq, ::prost::Message)]
                pub(super) struct $Name {
                    $(
                        #[prost($($attribute)*)]
                        pub(super) $field: $crate::replicated_part!(form $ty $(as $form)?),
                    )*
                }
            )?)*
        }
    };
}

/// Parts of [`replicated!`] that depend on what was left out.
#[doc(hidden)]
#[macro_export]
macro_rules! replicated_part {
    (since) => {
        0
    };
    (since $since:literal) => {
        $since
    };
    (form $ty:ty as $form:ty) => {
        $form
    };
    (form $ty:ty) => {
        $ty
    };
}
