import type { Device } from '../../lib/tensor/device'
import { getDevice } from '../../lib/tensor/device'
import { EnergyMeter } from '../../lib/train/energy_meter'

test('energy counts from start(), and is read at most twice a second', () => {
  let joules = 1000
  let readings = 0
  const device = { facts: () => (readings++, { watts: 250, joules }) } as unknown as Device
  const meter = new EnergyMeter(device)
  expect(meter.read()).toBeUndefined()
  meter.start()
  joules = 1015
  expect(meter.read()).toEqual({ watts: 250, joules: 15 })
  joules = 1030
  expect(meter.read()).toEqual({ watts: 250, joules: 15 })
  expect(readings).toBe(2)
})

test('a device that cannot tell has no energy', () => {
  const meter = new EnergyMeter(getDevice('cpu'))
  meter.start()
  expect(meter.read()).toBeUndefined()
})
