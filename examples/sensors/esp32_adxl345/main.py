"""MicroPython on an ESP32 + ADXL345 over SPI: 800 Hz from the FIFO, 160 samples of three axes in a message.

`mpremote mip install umqtt.simple`, fill in network and broker, copy this file as main.py. The table for thrumcast is
payloads.toml beside this file.
"""

import json
import time

import network
import ntptime
from machine import SPI, Pin
from umqtt.simple import MQTTClient

SSID, PASSWORD, BROKER, TOPIC = "plant", "secret", "192.168.1.10", b"sensors/press-1/adxl345"
RATE_HZ, COUNT = 800, 160
EPOCH_S = 946684800 if time.gmtime(0)[0] == 2000 else 0  # MicroPython counts from 2000 on most boards

spi = SPI(2, baudrate=5_000_000, polarity=1, phase=1, sck=Pin(18), mosi=Pin(23), miso=Pin(19))
select = Pin(5, Pin.OUT, value=1)


def write(address, value):
    """Set a register."""
    select(0)
    spi.write(bytes((address, value)))
    select(1)


def read(address, n):
    """Read n registers."""
    select(0)
    spi.write(bytes((address | 0xC0,)))
    data = spi.read(n)
    select(1)
    return data


def signed(low, high):
    """A 16-bit number."""
    value = low | high << 8
    return value - 65536 if value > 32767 else value


for address, value in (
    (0x2C, 0x0D),
    (0x31, 0x0B),
    (0x38, 0x80),
    (0x2D, 0x08),
):  # 800 Hz, full resolution, FIFO, measure
    write(address, value)
wlan = network.WLAN(network.STA_IF)
wlan.active(True)
wlan.connect(SSID, PASSWORD)
while not wlan.isconnected():
    time.sleep_ms(100)
ntptime.settime()
zero_us = (time.time() + EPOCH_S) * 1_000_000
zero_ticks = time.ticks_us()
last_ticks, elapsed_us = zero_ticks, 0
client = MQTTClient("press-1", BROKER)
client.connect()
xyz, first_us = [], 0
while True:
    ticks = time.ticks_us()
    elapsed_us += time.ticks_diff(ticks, last_ticks)  # ticks wrap after some minutes
    last_ticks = ticks
    for left in range(read(0x39, 1)[0] & 0x3F, 0, -1):
        raw = read(0x32, 6)
        if not xyz:
            first_us = zero_us + elapsed_us - (left - 1) * 1_000_000 // RATE_HZ
        xyz.append([signed(raw[0], raw[1]), signed(raw[2], raw[3]), signed(raw[4], raw[5])])
        if len(xyz) == COUNT:
            client.publish(TOPIC, json.dumps({"t_us": first_us, "rate_hz": RATE_HZ, "xyz": xyz}), qos=1)
            xyz = []
