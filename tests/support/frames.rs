//! The frames of the protocol between the two sides of media-sync, and a receiver that is given them.

use super::{Ran, World, assert_failed};

/// A frame as it is in the stream.
pub(crate) fn frame(body: &[&[u8]]) -> Vec<u8> {
    let body = body.concat();
    let length = u32::try_from(body.len()).unwrap();
    [length.to_le_bytes(), crc32fast::hash(&body).to_le_bytes()]
        .concat()
        .into_iter()
        .chain(body)
        .collect()
}

/// Text as it is encoded in a frame.
pub(crate) fn text(text: &str) -> Vec<u8> {
    let length = u32::try_from(text.len()).unwrap();
    [length.to_le_bytes().as_slice(), text.as_bytes()].concat()
}

/// The greeting of a sender of this version.
pub(crate) fn hello(magic: &str) -> Vec<u8> {
    frame(&[&[1], &text(magic), &[0; 9], &[60, 0, 0, 0]])
}

/// Runs a receiver with these frames as its input.
pub(crate) fn received(world: &World, command: &str, frames: &[Vec<u8>]) -> Ran {
    world.write("stream", frames.concat());
    world.shell(&format!("{command} < stream > answer"))
}

/// Fails unless a receiver refuses all frames but those of a sender of this version in their order.
pub(crate) fn assert_trusts_no_sender(world: &World, command: &str) {
    let receive = |frames: &[Vec<u8>]| received(world, command, frames);
    let start = || hello("ess-media/1");
    for path in [
        "../outside",
        "local_content/../../outside",
        "/etc/x",
        "other/Ab/Cd/x",
        "local_content/Ab/Cd/a b",
        "local_content/Ab/Cd/x\n",
    ] {
        for body in [[4, 0].as_slice(), &[8, 0], &[9]] {
            let time: &[u8] = if body[0] == 4 { &[0; 12] } else { &[] };
            let ran = receive(&[start(), frame(&[body, &text(path), time])]);
            assert_failed(&ran, 65, "a path that Synapse never creates");
        }
    }
    let not_begun = frame(&[&[5, 0, 1, 2, 3]]);
    assert_failed(&receive(&[start(), not_begun]), 65, "that it had not started");
    let unknown = frame(&[&[99]]);
    assert_failed(&receive(&[start(), unknown]), 74, "a frame has an unknown type");
    let mut damaged = frame(&[&[10]]);
    damaged[8] ^= 1;
    assert_failed(&receive(&[start(), damaged]), 74, "a frame is damaged");
    let mut cut = frame(&[&[10]]);
    cut.pop();
    assert_failed(&receive(&[start(), cut]), 74, "it ends within a frame");
    assert_failed(&receive(&[hello("ess-media/2")]), 65, "uses protocol ess-media/2");
    assert_failed(
        &receive(&[frame(&[&[10]])]),
        65,
        "the other side is not a sender of media-sync",
    );
    // A sender that sends nothing more and does not end.
    let idle = frame(&[&[1], &text("ess-media/1"), &[0; 9], &[1, 0, 0, 0]]);
    world.write("stream", idle);
    let silent = format!("mkfifo pipe; exec 3<>pipe; cat stream >&3; {command} <&3 >answer");
    assert_failed(&world.shell(&silent), 69, "the sender has sent nothing for 1 s");
    assert!(!world.path("outside").exists());
}
