// Runs before each test file where LEANFORMER_TEST_DEFAULT_DEVICE names a device: what tests make without naming one is there.
import { setDefaultDevice } from '../../lib/tensor/device'

setDefaultDevice(process.env.LEANFORMER_TEST_DEFAULT_DEVICE!)
