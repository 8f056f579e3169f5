from __future__ import annotations

import pytest

from benchmarks.load import padded_seq, template
from control_plane.simulators.link_stream import LARGEST_FRAME, StreamError, message
from protos.comboio.v1 import link_pb2 as wire
from tests.control_plane.sealing import batch


@pytest.mark.parametrize("seq", [1, 127, 128, 300, (1 << 34) + 5])
def test_a_template_and_a_seq_make_the_frame_of_one_uplink(seq: int) -> None:
    sent = batch(seq, 10, 20, 30)
    envelope = batch(0, 10, 20, 30).SerializeToString()
    data = template(envelope) + padded_seq(seq)
    assert int.from_bytes(data[:3], "big") == len(data) - 9
    assert int.from_bytes(data[10:14], "big") == len(data) - 14
    assert wire.Uplink.FromString(data[14:]) == wire.Uplink(batch=sent)


def test_what_needs_two_frames_is_refused() -> None:
    with pytest.raises(StreamError, match="more than one frame"):
        message(bytes(LARGEST_FRAME))
    with pytest.raises(StreamError, match="more than one frame"):
        template(bytes(LARGEST_FRAME))
