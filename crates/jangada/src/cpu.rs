//! Refuses a CPU without the instructions that the build uses, with words instead of SIGILL.
//!
//! The workspace is compiled for `broadwell`, C++ included, and static initialisers of C++ run before `main`. So the
//! check runs before them, from `.preinit_array`: the first code of a program after the dynamic loader. It must not
//! need the instructions that it checks for. It therefore looks at one feature at a time and keeps nothing, so that the
//! compiler has nothing to put into wide registers. To see that it works: `qemu-x86_64 -cpu Nehalem jangada --version`.
//!
//! `is_x86_feature_detected!` would answer from the build setting without looking, so the CPU is asked directly.

#![allow(unsafe_code, reason = "what runs before `main` has the C library and nothing else")]

use std::arch::x86_64::{__cpuid, __cpuid_count};

const CAUSE: &str = "error: this CPU lacks instructions that this build of jangada uses: ";
const HINT: &str = "\n  run it on an x86-64 CPU of Intel's Broadwell generation or later (AMD: Zen or later); \
                    a virtual machine must pass the host's CPU flags on\n";

/// An instruction set, the CPUID register that tells of it, and its bit there.
struct Feature {
    name: &'static str,
    register: Register,
    mask: u32,
}

#[derive(Clone, Copy)]
enum Register {
    Leaf1Ecx,
    Leaf7Ebx,
    ExtendedEcx,
}

const fn feature(name: &'static str, register: Register, bit: u32) -> Feature {
    let mask = 1 << bit;
    Feature { name, register, mask }
}

static FEATURES: [Feature; 13] = [
    feature("pclmulqdq", Register::Leaf1Ecx, 1),
    feature("fma", Register::Leaf1Ecx, 12),
    feature("sse4.2", Register::Leaf1Ecx, 20),
    feature("movbe", Register::Leaf1Ecx, 22),
    feature("popcnt", Register::Leaf1Ecx, 23),
    feature("osxsave", Register::Leaf1Ecx, 27),
    feature("avx", Register::Leaf1Ecx, 28),
    feature("f16c", Register::Leaf1Ecx, 29),
    feature("bmi1", Register::Leaf7Ebx, 3),
    feature("avx2", Register::Leaf7Ebx, 5),
    feature("bmi2", Register::Leaf7Ebx, 8),
    feature("adx", Register::Leaf7Ebx, 19),
    feature("lzcnt", Register::ExtendedEcx, 5),
];

impl Register {
    #[inline(never)]
    fn read(self) -> u32 {
        match self {
            Register::Leaf1Ecx => __cpuid(1).ecx,
            Register::Leaf7Ebx if __cpuid(0).eax >= 7 => __cpuid_count(7, 0).ebx,
            Register::ExtendedEcx if __cpuid(0x8000_0000).eax >= 0x8000_0001 => __cpuid(0x8000_0001).ecx,
            Register::Leaf7Ebx | Register::ExtendedEcx => 0,
        }
    }
}

/// Reports the instructions that a CPU with these registers lacks. Returns false if it lacks none.
fn lacks(read: impl Fn(Register) -> u32, mut say: impl FnMut(&str)) -> bool {
    let mut lacks = false;
    for feature in &FEATURES {
        if read(feature.register) & feature.mask == 0 {
            say(if lacks { ", " } else { CAUSE });
            say(feature.name);
            lacks = true;
        }
    }
    if lacks {
        say(HINT);
    }
    lacks
}

unsafe extern "C" {
    fn write(file: i32, bytes: *const u8, length: usize) -> isize;
    fn _exit(status: i32) -> !;
}

fn say(text: &str) {
    // SAFETY: it reads as many bytes as there are. A closed stderr is no reason to go on.
    unsafe { write(2, text.as_ptr(), text.len()) };
}

extern "C" fn check() {
    if lacks(Register::read, say) {
        // SAFETY: it ends the process, and nothing has been started that it could leave half done.
        unsafe { _exit(1) }
    }
}

#[used]
#[unsafe(link_section = ".preinit_array")]
static BEFORE_ALL_ELSE: extern "C" fn() = check;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_missing_instruction_set_is_named() {
        assert!(!lacks(|_| u32::MAX, |_| panic!("there is nothing to say")));
        let mut said = String::new();
        let old = |register| match register {
            Register::Leaf1Ecx => !(1 << 1),
            Register::Leaf7Ebx => 0,
            Register::ExtendedEcx => u32::MAX,
        };
        assert!(lacks(old, |text| said.push_str(text)));
        assert_eq!(said, format!("{CAUSE}pclmulqdq, bmi1, avx2, bmi2, adx{HINT}"));
    }
}
