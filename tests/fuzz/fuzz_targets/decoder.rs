//! One target for each decoder, all of this form: the name of the target is that of the decoder.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let name = env!("CARGO_BIN_NAME");
    let decoder = holdfast_fuzz::decoders::named(name).expect("each target has the name of a decoder");
    let _ = (decoder.run)(data);
});
