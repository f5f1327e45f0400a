//! Generates the wire types with a compiler written in Rust: no `protoc` is needed to build this crate.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    const FILE: &str = "holdfast/v1/agent.proto";
    println!("cargo::rerun-if-changed={FILE}");
    let mut compiler = protox::Compiler::new(["."])?;
    compiler.open_file(FILE)?;
    let folder = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    // A test walks every method of it.
    std::fs::write(folder.join("descriptor.bin"), compiler.encode_file_descriptor_set())?;
    tonic_prost_build::configure().compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
