"""Print progress as plain lines, for logs and for programs that watch a run."""

import lightning as L


class Lines(L.Callback):
    """Print `step 20/600 trainer/loss=5.91 ...` every `every` optimizer steps."""

    def __init__(self, every: int = 20):
        self.every, self.last = every, -1

    def on_train_batch_end(self, trainer, module, *args):
        step = trainer.global_step
        ends = step >= trainer.max_steps
        if step == self.last or (step % self.every and not ends):
            return
        self.last = step
        shown = {**trainer.progress_bar_metrics, **trainer.logged_metrics}
        shown = {k: v for k, v in shown.items() if "/" in k}
        if trainer.is_global_zero:
            values = " ".join(f"{k}={float(v):.4g}" for k, v in shown.items())
            print(f"step {step}/{trainer.max_steps} {values}", flush=True)
