// DLPack (https://dmlc.github.io/dlpack, version 0): arrays of a device for others, and others' arrays as a device's.
#include "device.h"

#include <cstring>

namespace {

constexpr int32_t CUDA = 2; // kDLCUDA
enum : uint8_t { INT = 0, UINT = 1, FLOAT = 2, BFLOAT = 4 };

struct Tensor {
    void *data;
    int32_t device_type, device_id;
    int32_t ndim;
    struct {
        uint8_t code, bits;
        uint16_t lanes;
    } dtype;
    int64_t *shape, *strides; // strides: nullptr where it is contiguous
    uint64_t byte_offset;
};
struct Managed {
    Tensor tensor;
    void *context;
    void (*deleter)(Managed *);
};

struct Exported { // what a capsule's array holds on to
    Managed managed;
    std::vector<int64_t> shape;
    py::object owner;
};

bool is_contiguous(const Tensor &tensor) {
    if (!tensor.strides) return true;
    int64_t expected = 1;
    for (int i = tensor.ndim; i-- > 0;) {
        if (tensor.shape[i] != 1 && tensor.strides[i] != expected) return false;
        expected *= tensor.shape[i];
    }
    return true;
}

} // namespace

py::capsule to_dlpack(const DeviceArray &array, bool bfloat16) {
    const char kind = array.dtype.kind();
    auto *exported = new Exported{{}, {array.shape.begin(), array.shape.end()}, array.owner};
    Managed &managed = exported->managed;
    managed.tensor = {array.data,
                      CUDA,
                      0,
                      (int32_t)exported->shape.size(),
                      {bfloat16      ? (uint8_t)BFLOAT
                       : kind == 'f' ? (uint8_t)FLOAT
                       : kind == 'u' ? (uint8_t)UINT
                                     : (uint8_t)INT,
                       (uint8_t)(8 * array.dtype.itemsize()), 1},
                      exported->shape.data(),
                      nullptr,
                      0};
    managed.context = exported;
    managed.deleter = [](Managed *self) {
        py::gil_scoped_acquire gil;
        delete static_cast<Exported *>(self->context);
    };
    return py::capsule(&managed, "dltensor", [](PyObject *capsule) {
        if (!PyCapsule_IsValid(capsule, "dltensor")) return; // a consumer has taken it, and renamed the capsule
        auto *managed = static_cast<Managed *>(PyCapsule_GetPointer(capsule, "dltensor"));
        managed->deleter(managed);
    });
}

// The array, and whether its numbers are bfloat16.
py::tuple from_dlpack(Device &device, const py::object &other) {
    const auto place = py::cast<std::pair<int, int>>(other.attr("__dlpack_device__")());
    if (place != std::pair<int, int>(CUDA, 0))
        raise_error("DTypeError", "this array is on device " + std::to_string(place.second) + " of DLPack's type " +
                                      std::to_string(place.first) +
                                      "; from_dlpack takes arrays of the first CUDA device (" + std::to_string(CUDA) +
                                      ")");
    const auto capsule =
        py::cast<py::capsule>(other.attr("__dlpack__")(py::arg("stream") = 1)); // 1: the legacy default
    auto *managed = static_cast<Managed *>(PyCapsule_GetPointer(capsule.ptr(), "dltensor"));
    if (!managed) throw py::error_already_set();
    const Tensor &tensor = managed->tensor;
    const bool bfloat16 = tensor.dtype.code == BFLOAT;
    const char *kind = bfloat16 || tensor.dtype.code == UINT ? "u" : tensor.dtype.code == FLOAT ? "f" : "i";
    if (!is_contiguous(tensor) || tensor.dtype.lanes != 1 || tensor.dtype.code == 3 || tensor.dtype.code > BFLOAT)
        raise_error("DTypeError", "from_dlpack takes contiguous arrays of integers or floating-point numbers");
    if (PyCapsule_SetName(capsule.ptr(), "used_dltensor")) throw py::error_already_set();
    py::capsule owner(managed, [](void *p) {
        auto *held = static_cast<Managed *>(p);
        if (held->deleter) held->deleter(held);
    });
    auto array = std::unique_ptr<DeviceArray>(
        ::new DeviceArray(&device, static_cast<char *>(tensor.data) + tensor.byte_offset,
                          std::vector<py::ssize_t>(tensor.shape, tensor.shape + tensor.ndim),
                          py::dtype(std::string(kind) + std::to_string(tensor.dtype.bits / 8)), std::move(owner)));
    return py::make_tuple(std::move(array), bfloat16);
}
