// Dynamic loss scaling for f16: the loss is multiplied by `scale` so that small gradients survive; a step with a NaN or
// infinity among the gradients is skipped and halves the scale; after `window` clean steps it doubles.
// Source: Micikevicius et al., arXiv 1710.03740.
export interface LossScalerState {
  scale: number
  cleanSteps: number
}

export class LossScaler {
  private cleanSteps = 0

  constructor(
    public scale = 65536,
    private readonly window = 2000,
  ) {}

  /** To be told after every step whether it was skipped. */
  update(skipped: boolean): void {
    if (skipped) {
      this.scale = Math.max(1, this.scale / 2)
      this.cleanSteps = 0
    } else if (++this.cleanSteps === this.window) {
      this.scale *= 2
      this.cleanSteps = 0
    }
  }

  state(): LossScalerState {
    return { scale: this.scale, cleanSteps: this.cleanSteps }
  }

  load(state: LossScalerState): void {
    this.scale = state.scale
    this.cleanSteps = state.cleanSteps
  }
}
