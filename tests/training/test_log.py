import io
import json
import math

from tensorboardX.proto import event_pb2

from jaxmotion.training.log import Log, cut, duration, mean, write_whole


class Terminal(io.StringIO):
    def isatty(self):
        return True


def log(directory, stream, **changes):
    settings = {"start": 0, "steps": 100, "rows": 8, "log_every": 2, "tensorboard": False, **changes}
    return Log(directory, stream=stream, **settings)


def numbers(loss, skipped=0):
    return {"loss": loss, "skipped": skipped, "skipped_in_row": skipped}


def test_rows_are_means_over_the_steps_since_the_row_before(tmp_path):
    stream = io.StringIO()
    written = log(tmp_path, stream)
    for step, loss in enumerate([1.0, 3.0, 5.0], start=1):
        written.add(step, numbers(loss), seconds=0.5, waited=0.1)
    written.flush()
    written.close()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row["loss"]) for row in rows] == [(2, 2.0), (3, 5.0)]
    assert rows[0]["clips_per_second"] == 16.0
    assert rows[0]["data_seconds"] == 0.1
    assert stream.getvalue().splitlines() == [
        "step 2/100: loss 2.0000, 0.5 s/step, 16 clips/s, 49 s left",
        "step 3/100: loss 5.0000, 0.5 s/step, 16 clips/s, 48 s left",
    ]


def test_a_terminal_gets_a_bar_with_loss_speed_and_time_left(tmp_path):
    stream = Terminal()
    written = log(tmp_path, stream, steps=1000)
    for step in range(1, 4):
        written.add(step, numbers(0.25), seconds=2.0, waited=0.0)
    written.close()
    assert "step 3/1000" in stream.getvalue()
    assert "loss 0.2500, 2 s/step, 4.0 clips/s, 33 min left" in stream.getvalue()


def test_a_run_that_continues_drops_what_it_writes_again_and_half_written_rows(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 2}\n{"step": 4}\n{"step": 6}\n{"ste')
    cut(path, 4)
    assert path.read_text() == '{"step": 2}\n{"step": 4}\n'
    cut(path, 0)
    assert path.read_text() == ""


def test_means_leave_out_what_is_not_finite_and_counters_end_as_they_are():
    window = [numbers(1.0), numbers(math.nan, skipped=1), numbers(3.0, skipped=1)]
    assert mean(window) == {"loss": 2.0, "skipped": 1, "skipped_in_row": 1}
    assert mean([numbers(math.inf)])["loss"] is None


def test_tensorboard_gets_the_same_numbers(tmp_path):
    written = log(tmp_path, io.StringIO(), tensorboard=True, start=10)
    written.add(12, numbers(0.5), seconds=1.0, waited=0.0)
    written.close()
    events = read_events(next((tmp_path / "tensorboard").iterdir()))
    assert events[1].session_log.status == event_pb2.SessionLog.START
    assert events[1].step == 11
    values = {event.summary.value[0].tag: event.summary.value[0].simple_value for event in events[2:]}
    assert values["loss"] == 0.5
    assert {event.step for event in events[2:]} == {12}


def read_events(path):
    data, at, events = path.read_bytes(), 0, []
    while at < len(data):
        size = int.from_bytes(data[at : at + 8], "little")
        events.append(event_pb2.Event.FromString(data[at + 12 : at + 12 + size]))
        at += 16 + size
    return events


def test_files_are_replaced_whole(tmp_path):
    path = tmp_path / "config.json"
    write_whole(path, "one")
    write_whole(path, "two")
    assert path.read_text() == "two"
    assert [each.name for each in tmp_path.iterdir()] == ["config.json"]


def test_durations():
    assert [duration(seconds) for seconds in (5, 300, 7260, 200000)] == ["5 s", "5 min", "2 h 1 min", "2 d 7 h"]
