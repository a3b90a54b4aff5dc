//! Refuses a CPU without the instructions that the build uses, with words instead of SIGILL.
//!
//! The workspace is compiled for `broadwell`. `is_x86_feature_detected!` would answer from that build setting without
//! looking, so the CPU is asked directly. The check comes before everything else in `main`; what the language runtime
//! does earlier is compiled for any x86-64.

use std::arch::x86_64::{__cpuid, __cpuid_count};

use crate::errors::CliError;

/// An instruction set, the CPUID leaf and register that tell of it, and the bit.
struct Feature {
    name: &'static str,
    register: Register,
    bit: u32,
}

#[derive(Clone, Copy)]
enum Register {
    Leaf1Ecx,
    Leaf7Ebx,
    ExtendedEcx,
}

const FEATURES: [Feature; 13] = [
    Feature {
        name: "pclmulqdq",
        register: Register::Leaf1Ecx,
        bit: 1,
    },
    Feature {
        name: "fma",
        register: Register::Leaf1Ecx,
        bit: 12,
    },
    Feature {
        name: "sse4.2",
        register: Register::Leaf1Ecx,
        bit: 20,
    },
    Feature {
        name: "movbe",
        register: Register::Leaf1Ecx,
        bit: 22,
    },
    Feature {
        name: "popcnt",
        register: Register::Leaf1Ecx,
        bit: 23,
    },
    Feature {
        name: "osxsave",
        register: Register::Leaf1Ecx,
        bit: 27,
    },
    Feature {
        name: "avx",
        register: Register::Leaf1Ecx,
        bit: 28,
    },
    Feature {
        name: "f16c",
        register: Register::Leaf1Ecx,
        bit: 29,
    },
    Feature {
        name: "bmi1",
        register: Register::Leaf7Ebx,
        bit: 3,
    },
    Feature {
        name: "avx2",
        register: Register::Leaf7Ebx,
        bit: 5,
    },
    Feature {
        name: "bmi2",
        register: Register::Leaf7Ebx,
        bit: 8,
    },
    Feature {
        name: "adx",
        register: Register::Leaf7Ebx,
        bit: 19,
    },
    Feature {
        name: "lzcnt",
        register: Register::ExtendedEcx,
        bit: 5,
    },
];

/// What CPUID says in the registers that matter.
#[derive(Clone, Copy)]
struct Registers {
    leaf1_ecx: u32,
    leaf7_ebx: u32,
    extended_ecx: u32,
}

impl Registers {
    fn read() -> Registers {
        let has = |leaf: u32, base: u32| __cpuid(base).eax >= leaf;
        Registers {
            leaf1_ecx: __cpuid(1).ecx,
            leaf7_ebx: if has(7, 0) { __cpuid_count(7, 0).ebx } else { 0 },
            extended_ecx: if has(0x8000_0001, 0x8000_0000) {
                __cpuid(0x8000_0001).ecx
            } else {
                0
            },
        }
    }

    fn missing(self) -> Vec<&'static str> {
        let absent = |feature: &&Feature| {
            let register = match feature.register {
                Register::Leaf1Ecx => self.leaf1_ecx,
                Register::Leaf7Ebx => self.leaf7_ebx,
                Register::ExtendedEcx => self.extended_ecx,
            };
            register & (1 << feature.bit) == 0
        };
        FEATURES.iter().filter(absent).map(|feature| feature.name).collect()
    }
}

/// Fails when this CPU lacks an instruction set of the build.
pub fn check() -> Result<(), CliError> {
    let missing = Registers::read().missing();
    if missing.is_empty() {
        return Ok(());
    }
    let message = format!(
        "this CPU lacks instructions that this build of jangada uses: {}",
        missing.join(", ")
    );
    let hint = "run it on an x86-64 CPU of Intel's Broadwell generation or later (AMD: Zen or later); \
                a virtual machine must pass the host's CPU flags on";
    Err(CliError::new(message).hint(hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_passes() {
        assert!(check().is_ok());
    }

    #[test]
    fn each_missing_instruction_set_is_named() {
        let all = Registers {
            leaf1_ecx: u32::MAX,
            leaf7_ebx: u32::MAX,
            extended_ecx: u32::MAX,
        };
        assert_eq!(all.missing(), Vec::<&str>::new());
        let old = Registers {
            leaf1_ecx: !(1 << 1),
            leaf7_ebx: 0,
            ..all
        };
        assert_eq!(old.missing(), ["pclmulqdq", "bmi1", "avx2", "bmi2", "adx"]);
    }
}
