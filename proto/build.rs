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
    #[allow(unused_mut)]
    let mut files = compiler.file_descriptor_set();
    #[cfg(feature = "as-newer-build")]
    for message in files.file.iter_mut().flat_map(|file| &mut file.message_type) {
        // A test build has a field more in the part that is in every message.
        if message.name() == "Envelope" {
            let mut newer = message.field[0].clone();
            (newer.name, newer.json_name, newer.number) = (Some("newer".into()), None, Some(1_000));
            message.field.push(newer);
        }
    }
    tonic_prost_build::configure().compile_fds(files)?;
    Ok(())
}
