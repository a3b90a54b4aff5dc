//! The coordinator through its public interface: scenarios, properties, and bytes that later builds must read.
